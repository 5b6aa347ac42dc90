-- Changes with each choice and with all that may switch it off, so that nobody switches on again
-- who has not heard of it; and how often in a row the processor did not answer (kyma/topups.py).
ALTER TABLE auto_top_ups
    ADD COLUMN revision bigint NOT NULL DEFAULT 0 CHECK (revision >= 0),
    ADD COLUMN delays   integer NOT NULL DEFAULT 0 CHECK (delays >= 0)
