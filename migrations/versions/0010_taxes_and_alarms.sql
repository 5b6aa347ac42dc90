-- On top of `amount`, as last reckoned: a month's ceiling is of what the card pays.
ALTER TABLE auto_top_ups ADD COLUMN tax bigint NOT NULL DEFAULT 0 CHECK (tax >= 0)
-- ;
ALTER TABLE top_up_attempts ADD COLUMN tax bigint NOT NULL DEFAULT 0 CHECK (tax >= 0)
-- ;
-- The most that came in at once since the last letter. What is low follows from it: who never
-- had more than a grant is low before a dollar is left (kyma/topups.py).
ALTER TABLE low_balance_alarms ADD COLUMN brought bigint NOT NULL DEFAULT 0
-- ;
UPDATE low_balance_alarms a SET brought = e.paid + e.promo FROM entries e WHERE e.id = a.armed_by
-- ;
CREATE OR REPLACE FUNCTION arm_low_balance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO low_balance_alarms AS a (account_id, armed_by, brought)
    VALUES (NEW.account_id, NEW.id, NEW.paid + NEW.promo)
    ON CONFLICT (account_id) DO UPDATE
        SET armed_by = excluded.armed_by, brought = greatest(a.brought, excluded.brought);
    RETURN NULL;
END $$
-- ;
DROP TRIGGER deposits_arm ON entries
-- ;
CREATE TRIGGER credits_arm AFTER INSERT ON entries
    FOR EACH ROW WHEN (NEW.kind IN ('deposit', 'grant')) EXECUTE FUNCTION arm_low_balance()
