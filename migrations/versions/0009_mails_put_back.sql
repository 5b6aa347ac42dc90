-- Letters that had ended and that an operator put back among those that wait. `was`, `tries` and
-- `error` are what the letter's own row forgets by it.
CREATE TABLE mails_put_back (
    mail_id     text NOT NULL REFERENCES mails (id),
    put_back_at timestamptz NOT NULL DEFAULT now(),
    operator    text NOT NULL CHECK (operator <> ''),
    reason      text NOT NULL CHECK (reason <> ''),
    was         text NOT NULL CHECK (was IN ('unknown', 'given_up')),
    tries       smallint NOT NULL,
    error       text NOT NULL,
    PRIMARY KEY (mail_id, put_back_at)
)
-- ;
CREATE TRIGGER mails_put_back_append_only BEFORE UPDATE OR DELETE ON mails_put_back
    FOR EACH ROW EXECUTE FUNCTION refuse_change()
