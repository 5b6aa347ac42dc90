-- One question to a provider whether it answers; outcome is `ok` or the fault.
CREATE TABLE provider_probes (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    provider   text NOT NULL CHECK (provider <> ''),
    outcome    text NOT NULL CHECK (outcome <> ''),
    latency_ms integer NOT NULL CHECK (latency_ms >= 0),
    probed_at  timestamptz NOT NULL DEFAULT now()
)
-- ;
CREATE INDEX provider_probes_time ON provider_probes (probed_at)
-- ;
-- The hours whose usage records have been summed up: none of theirs can be added any more.
CREATE TABLE closed_hours (
    hour timestamptz PRIMARY KEY CHECK (date_trunc('hour', hour, 'UTC') = hour)
)
-- ;
-- A projection of `usage_records`, so that a public figure of seven days reads some thousand
-- rows, however many requests there were. `provider` is empty where nobody answered. No
-- customer is in it.
CREATE TABLE traffic_hours (
    hour               timestamptz NOT NULL REFERENCES closed_hours (hour),
    model              text NOT NULL,
    provider           text NOT NULL,
    requests           bigint NOT NULL,
    prompt_tokens      bigint NOT NULL,
    cached_tokens      bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens      bigint NOT NULL,
    cache_hits         bigint NOT NULL,
    savings            bigint NOT NULL,
    answered           bigint NOT NULL,
    substituted        bigint NOT NULL,
    failed             bigint NOT NULL,
    tries_ok           bigint NOT NULL,
    tries_failed       bigint NOT NULL,
    PRIMARY KEY (hour, model, provider)
)
