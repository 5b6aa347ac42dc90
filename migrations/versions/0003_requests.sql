-- How long answers made with this key may be kept, encrypted, for a retry: its owner's choice.
ALTER TABLE api_keys ADD COLUMN replay_minutes smallint NOT NULL DEFAULT 0
    CHECK (replay_minutes BETWEEN 0 AND 10)
-- ;
-- Which request works, or worked, under a caller's idempotency key. `key` is the SHA-256 of the
-- key and `fingerprint` that of method, path and body: neither can be read back. `request_id` is
-- the fence: only the request named here may end the claim. `sealed` is an answer that only the
-- caller's own secret opens.
CREATE TABLE idempotency_claims (
    account_id   uuid NOT NULL,
    key          bytea NOT NULL CHECK (length(key) = 32),
    fingerprint  bytea NOT NULL CHECK (length(fingerprint) = 32),
    request_id   uuid NOT NULL,
    state        text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'finished')),
    claimed_at   timestamptz NOT NULL DEFAULT now(),
    lease_until  timestamptz NOT NULL,
    forget_at    timestamptz NOT NULL,
    sealed       bytea,
    sealed_until timestamptz CHECK ((sealed_until IS NULL) = (sealed IS NULL)),
    PRIMARY KEY (account_id, key)
)
-- ;
CREATE INDEX idempotency_claims_forget ON idempotency_claims (forget_at)
-- ;
CREATE INDEX idempotency_claims_sealed ON idempotency_claims (sealed_until)
    WHERE sealed_until IS NOT NULL
-- ;
-- What each price version says, so that every settled request can be reckoned again. In
-- nano-dollars per million tokens.
CREATE TABLE price_versions (
    version       text NOT NULL,
    model         text NOT NULL,
    input         bigint NOT NULL CHECK (input >= 0),
    output        bigint NOT NULL CHECK (output >= 0),
    cached        bigint NOT NULL CHECK (cached >= 0),
    cache_write   bigint NOT NULL CHECK (cache_write >= 0),
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (version, model)
)
-- ;
CREATE TRIGGER price_versions_append_only BEFORE UPDATE OR DELETE ON price_versions
    FOR EACH ROW EXECUTE FUNCTION refuse_change()
