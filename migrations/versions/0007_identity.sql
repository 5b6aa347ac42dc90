-- Secrets are kept as digests under the server's pepper, here as everywhere.
--
-- A device that wants a key, and the short code by which a person finds it. A short code is taken
-- only until its time is over, hence the primary key. `key_id` is what the code was spent for.
CREATE TABLE device_codes (
    user_code   text PRIMARY KEY,
    digest      bytea NOT NULL UNIQUE CHECK (length(digest) = 32),
    client_name text NOT NULL CHECK (client_name <> ''),
    state       text NOT NULL DEFAULT 'pending'
                CHECK (state IN ('pending', 'approved', 'denied', 'used')),
    account_id  uuid REFERENCES accounts (id),
    key_id      uuid REFERENCES api_keys (id),
    interval_s  integer NOT NULL CHECK (interval_s > 0),
    polled_at   timestamptz,
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL,
    CHECK ((account_id IS NULL) = (state = 'pending')),
    CHECK ((key_id IS NOT NULL) = (state = 'used'))
)
-- ;
CREATE INDEX device_codes_expiry ON device_codes (expires_at)
-- ;
-- What a person allowed an application, until it is fetched. A row outlives its minute, so that a
-- second use is recognised and takes back the key that the first one gave.
CREATE TABLE authorization_codes (
    digest       bytea PRIMARY KEY CHECK (length(digest) = 32),
    client_id    text NOT NULL,
    redirect_uri text NOT NULL,
    challenge    text NOT NULL,
    account_id   uuid NOT NULL REFERENCES accounts (id),
    key_id       uuid REFERENCES api_keys (id),
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL,
    used_at      timestamptz,
    CHECK (key_id IS NULL OR used_at IS NOT NULL)
)
-- ;
CREATE INDEX authorization_codes_expiry ON authorization_codes (expires_at)
-- ;
-- Who somebody is at a provider of identities. Never by address: addresses change hands.
CREATE TABLE identities (
    issuer     text NOT NULL CHECK (issuer <> ''),
    subject    text NOT NULL CHECK (subject <> ''),
    account_id uuid NOT NULL REFERENCES accounts (id),
    email      text NOT NULL,
    linked_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (issuer, subject)
)
-- ;
CREATE INDEX identities_account ON identities (account_id)
-- ;
-- A secret that proves one thing once: that its holder reads mail at an address, or has just come
-- from a provider of identities. `sign_up` has no account yet; only `offer` and `join` name who
-- somebody is elsewhere.
CREATE TABLE links (
    digest     bytea PRIMARY KEY CHECK (length(digest) = 32),
    kind       text NOT NULL CHECK (kind IN ('verify', 'reset', 'sign_up', 'offer', 'join')),
    account_id uuid REFERENCES accounts (id) CHECK ((account_id IS NULL) = (kind = 'sign_up')),
    email      text NOT NULL,
    issuer     text,
    subject    text,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at    timestamptz,
    CHECK ((issuer IS NOT NULL) = (kind IN ('offer', 'join'))),
    CHECK ((subject IS NOT NULL) = (issuer IS NOT NULL))
)
-- ;
CREATE INDEX links_expiry ON links (expires_at)
-- ;
CREATE INDEX links_account ON links (account_id, kind) WHERE used_at IS NULL
