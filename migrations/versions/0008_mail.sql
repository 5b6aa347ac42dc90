-- Letters on their way and what became of them. A row is never deleted: its id is what keeps a
-- letter from being sent twice. What it says is erased: secrets when it has ended, the rest later.
-- `due_at` is when to try next, and while it is being sent, when its lease is over. `claim` is the
-- fence: only the attempt named here may say how it ended.
CREATE TABLE mails (
    id        text PRIMARY KEY CHECK (id <> ''),
    letter    text NOT NULL,
    recipient text NOT NULL,
    facts     jsonb NOT NULL,
    state     text NOT NULL DEFAULT 'waiting'
              CHECK (state IN ('waiting', 'sending', 'sent', 'unknown', 'given_up')),
    tries     smallint NOT NULL DEFAULT 0,
    claim     uuid CHECK ((claim IS NULL) = (tries = 0)),
    due_at    timestamptz NOT NULL DEFAULT now(),
    posted_at timestamptz NOT NULL DEFAULT now(),
    ended_at  timestamptz CHECK ((ended_at IS NULL) = (state IN ('waiting', 'sending'))),
    error     text NOT NULL DEFAULT ''
)
-- ;
-- What may stay of a letter that has ended: no fact that may hold a secret.
CREATE FUNCTION harmless_facts(facts jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM jsonb_each(facts)
    WHERE right(key, 4) <> '_url'
$$
-- ;
CREATE INDEX mails_due ON mails (state, due_at) WHERE state IN ('waiting', 'sending')
-- ;
CREATE INDEX mails_troubled ON mails (ended_at) WHERE state IN ('unknown', 'given_up')
-- ;
CREATE INDEX mails_unerased ON mails (ended_at) WHERE recipient <> ''
-- ;
-- What a customer shows to others, so that they are known as sent by them.
CREATE TABLE referral_codes (
    account_id uuid PRIMARY KEY REFERENCES accounts (id),
    code       text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
)
-- ;
-- Who sent whom. One referrer per account, for ever. `tokens` is the running sum of the referred
-- account's usage records up to `counted_until`. `paid_at` follows `verified_at` once both have
-- their credit: a row with the one and not the other is finished by the next run.
CREATE TABLE referrals (
    id            uuid PRIMARY KEY,
    referrer_id   uuid NOT NULL REFERENCES accounts (id),
    referred_id   uuid NOT NULL UNIQUE REFERENCES accounts (id),
    state         text NOT NULL DEFAULT 'pending'
                  CHECK (state IN ('pending', 'verified', 'void')),
    created_at    timestamptz NOT NULL DEFAULT now(),
    tokens        bigint NOT NULL DEFAULT 0 CHECK (tokens >= 0),
    counted_until timestamptz NOT NULL DEFAULT now(),
    verified_at   timestamptz CHECK ((verified_at IS NOT NULL) = (state = 'verified')),
    paid_at       timestamptz CHECK (paid_at IS NULL OR state = 'verified'),
    voided_at     timestamptz CHECK ((voided_at IS NOT NULL) = (state = 'void')),
    operator      text NOT NULL DEFAULT '',
    reason        text NOT NULL DEFAULT '',
    CHECK (referrer_id <> referred_id),
    CHECK (state <> 'void' OR (operator <> '' AND reason <> ''))
)
-- ;
CREATE INDEX referrals_referrer ON referrals (referrer_id, created_at DESC, id DESC)
-- ;
CREATE INDEX referrals_uncounted ON referrals (counted_until) WHERE state = 'pending'
-- ;
CREATE INDEX referrals_unpaid ON referrals (verified_at)
    WHERE state = 'verified' AND paid_at IS NULL
-- ;
-- A customer asks for a tier; an operator answers once. `told_at` is when the letter about the
-- answer was posted: an answer without it is told by the next run.
CREATE TABLE tier_requests (
    id            uuid PRIMARY KEY,
    account_id    uuid NOT NULL REFERENCES accounts (id),
    company       text NOT NULL CHECK (company <> ''),
    purpose       text NOT NULL CHECK (purpose <> ''),
    expected_load text NOT NULL CHECK (expected_load <> ''),
    requested_at  timestamptz NOT NULL DEFAULT now(),
    state         text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'approved', 'declined')),
    override_id   uuid REFERENCES tier_overrides (id)
                  CHECK ((override_id IS NOT NULL) = (state = 'approved')),
    operator      text NOT NULL DEFAULT '' CHECK ((operator = '') = (state = 'open')),
    reason        text NOT NULL DEFAULT '' CHECK ((reason = '') = (state = 'open')),
    answered_at   timestamptz CHECK ((answered_at IS NULL) = (state = 'open')),
    told_at       timestamptz CHECK (told_at IS NULL OR state <> 'open')
)
-- ;
CREATE UNIQUE INDEX tier_requests_one_open ON tier_requests (account_id) WHERE state = 'open'
-- ;
CREATE INDEX tier_requests_account ON tier_requests (account_id, requested_at DESC, id DESC)
-- ;
CREATE INDEX tier_requests_open ON tier_requests (requested_at) WHERE state = 'open'
-- ;
CREATE INDEX tier_requests_untold ON tier_requests (answered_at)
    WHERE state <> 'open' AND told_at IS NULL
