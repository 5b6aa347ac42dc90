-- When a charge that has not ended is looked at again, and how often it was (kyma/topups.py).
ALTER TABLE top_up_attempts
    ADD COLUMN resumes   integer NOT NULL DEFAULT 0 CHECK (resumes >= 0),
    ADD COLUMN resume_at timestamptz NOT NULL DEFAULT now()
-- ;
CREATE INDEX top_up_attempts_stalled ON top_up_attempts (resume_at) WHERE state = 'running'
