-- Nothing of ours deletes a key, or a session that still works; whoever does so by hand is heard.
CREATE FUNCTION note_account_deletion() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO account_changes (account_id) VALUES (OLD.account_id);
    RETURN NULL;
END $$
-- ;
CREATE TRIGGER api_keys_deleted AFTER DELETE ON api_keys
    FOR EACH ROW EXECUTE FUNCTION note_account_deletion()
-- ;
CREATE TRIGGER sessions_deleted AFTER DELETE ON sessions
    FOR EACH ROW WHEN (OLD.expires_at > now() AND OLD.ended_at IS NULL)
    EXECUTE FUNCTION note_account_deletion()
