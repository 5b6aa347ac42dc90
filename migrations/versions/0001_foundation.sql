CREATE TABLE accounts (
    id            uuid PRIMARY KEY,
    email         text NOT NULL,
    password_hash text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now()
)
-- ;
CREATE UNIQUE INDEX accounts_email ON accounts (lower(email))
-- ;
CREATE TABLE api_keys (
    id         uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES accounts (id),
    name       text NOT NULL,
    digest     bytea NOT NULL UNIQUE CHECK (length(digest) = 32),
    prefix     text NOT NULL,
    last4      text NOT NULL CHECK (length(last4) = 4),
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
)
-- ;
CREATE INDEX api_keys_account ON api_keys (account_id, created_at DESC)
-- ;
CREATE TABLE sessions (
    digest     bytea PRIMARY KEY CHECK (length(digest) = 32),
    account_id uuid NOT NULL REFERENCES accounts (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
)
-- ;
CREATE TABLE operators (
    name          text PRIMARY KEY,
    password_hash text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now()
)
-- ;
-- level NULL revokes the override before it.
CREATE TABLE tier_overrides (
    id         uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES accounts (id),
    level      smallint CHECK (level BETWEEN 0 AND 4),
    operator   text NOT NULL CHECK (operator <> ''),
    reason     text NOT NULL CHECK (reason <> ''),
    granted_at timestamptz NOT NULL,
    until      timestamptz,
    seq        bigint GENERATED ALWAYS AS IDENTITY
)
-- ;
CREATE INDEX tier_overrides_account ON tier_overrides (account_id, seq DESC)
-- ;
-- A projection of `entries`: never the source of truth, always checkable against it.
CREATE TABLE balances (
    account_id uuid PRIMARY KEY,
    paid       bigint NOT NULL DEFAULT 0 CHECK (paid >= 0),
    promo      bigint NOT NULL DEFAULT 0 CHECK (promo >= 0),
    held_paid  bigint NOT NULL DEFAULT 0 CHECK (held_paid >= 0),
    held_promo bigint NOT NULL DEFAULT 0 CHECK (held_promo >= 0),
    deposited  bigint NOT NULL DEFAULT 0 CHECK (deposited >= 0)
) WITH (fillfactor = 50)
-- ;
-- One row is one transaction, one column is one book: that it sums to zero is a constraint.
CREATE TABLE entries (
    id            uuid PRIMARY KEY,
    kind          text NOT NULL
                  CHECK (kind IN ('deposit', 'grant', 'hold', 'settle', 'refund', 'expire')),
    account_id    uuid NOT NULL,
    hold_id       uuid CHECK ((hold_id IS NULL) = (kind IN ('deposit', 'grant'))),
    paid          bigint NOT NULL DEFAULT 0,
    promo         bigint NOT NULL DEFAULT 0,
    held_paid     bigint NOT NULL DEFAULT 0,
    held_promo    bigint NOT NULL DEFAULT 0,
    revenue       bigint NOT NULL DEFAULT 0 CHECK (revenue >= 0),
    provider_cost bigint NOT NULL DEFAULT 0 CHECK (provider_cost <= 0),
    processor     bigint NOT NULL DEFAULT 0,
    promo_fund    bigint NOT NULL DEFAULT 0,
    loss          bigint NOT NULL DEFAULT 0 CHECK (loss <= 0),
    reason        text NOT NULL DEFAULT '',
    actor         text NOT NULL DEFAULT '',
    created_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT entries_sum_to_zero CHECK (
        paid + promo + held_paid + held_promo + revenue + provider_cost + processor
        + promo_fund + loss = 0
    )
)
-- ;
CREATE UNIQUE INDEX entries_one_resolution ON entries (hold_id)
    WHERE kind IN ('settle', 'refund', 'expire')
-- ;
CREATE INDEX entries_account ON entries (account_id, created_at)
-- ;
-- The holds without a resolution: a projection too, and the lock of exactly-once.
CREATE TABLE open_holds (
    hold_id    uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    paid       bigint NOT NULL CHECK (paid >= 0),
    promo      bigint NOT NULL CHECK (promo >= 0),
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 70)
-- ;
CREATE INDEX open_holds_expiry ON open_holds (expires_at)
-- ;
-- Metadata of one request; no prompt and no answer is ever here.
CREATE TABLE usage_records (
    id                 uuid PRIMARY KEY,
    account_id         uuid NOT NULL,
    key_id             uuid,
    endpoint           text NOT NULL,
    requested_model    text NOT NULL,
    served_model       text NOT NULL,
    provider           text NOT NULL,
    layer              smallint NOT NULL,
    streamed           boolean NOT NULL,
    outcome            text NOT NULL,
    input_tokens       bigint NOT NULL CHECK (input_tokens >= 0),
    cache_read_tokens  bigint NOT NULL CHECK (cache_read_tokens >= 0),
    cache_write_tokens bigint NOT NULL CHECK (cache_write_tokens >= 0),
    output_tokens      bigint NOT NULL CHECK (output_tokens >= 0),
    reasoning_tokens   bigint NOT NULL CHECK (reasoning_tokens >= 0),
    evidence           text NOT NULL,
    price_version      text NOT NULL,
    charged            bigint NOT NULL CHECK (charged >= 0),
    cache_discount     bigint NOT NULL CHECK (cache_discount >= 0),
    provider_cost      bigint NOT NULL CHECK (provider_cost >= 0),
    first_byte_ms      integer NOT NULL,
    duration_ms        integer NOT NULL,
    attempts           jsonb NOT NULL,
    started_at         timestamptz NOT NULL,
    created_at         timestamptz NOT NULL DEFAULT now()
)
-- ;
CREATE INDEX usage_records_time ON usage_records (created_at)
-- ;
CREATE INDEX usage_records_account ON usage_records (account_id, created_at)
-- ;
-- Whose key, tier or deposits changed lately: what every process reads twice a second, so that
-- it may remember the rest. The worker forgets old rows.
CREATE TABLE account_changes (
    account_id uuid NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
-- ;
CREATE INDEX account_changes_time ON account_changes (changed_at)
-- ;
CREATE FUNCTION note_account_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO account_changes (account_id) VALUES (NEW.account_id);
    RETURN NULL;
END $$
-- ;
CREATE TRIGGER api_keys_changed AFTER UPDATE ON api_keys
    FOR EACH ROW EXECUTE FUNCTION note_account_change()
-- ;
CREATE TRIGGER sessions_changed AFTER UPDATE ON sessions
    FOR EACH ROW EXECUTE FUNCTION note_account_change()
-- ;
CREATE TRIGGER overrides_changed AFTER INSERT ON tier_overrides
    FOR EACH ROW EXECUTE FUNCTION note_account_change()
-- ;
CREATE TRIGGER deposits_changed AFTER INSERT ON entries
    FOR EACH ROW WHEN (NEW.kind = 'deposit') EXECUTE FUNCTION note_account_change()
-- ;
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: a correction is a new row', TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$
-- ;
CREATE TRIGGER entries_append_only BEFORE UPDATE OR DELETE ON entries
    FOR EACH ROW EXECUTE FUNCTION refuse_change()
-- ;
CREATE TRIGGER entries_no_truncate BEFORE TRUNCATE ON entries
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
-- ;
CREATE TRIGGER overrides_append_only BEFORE UPDATE OR DELETE ON tier_overrides
    FOR EACH ROW EXECUTE FUNCTION refuse_change()
-- ;
CREATE TRIGGER usage_append_only BEFORE UPDATE OR DELETE ON usage_records
    FOR EACH ROW EXECUTE FUNCTION refuse_change()
-- ;
-- Applies holds and resolutions in array order, as if one by one, in one transaction.
-- The rule is kyma/ledger.py's; tests hold this function to it operation by operation.
-- Locks the touched balances in id order before it reads anything that they guard.
-- Precondition (kept by the batcher): no hold id occurs twice in one call.
-- p_amount is the hold's amount, or the bill; p_account is NULL for resolutions.
CREATE FUNCTION ledger_apply(
    p_kind text[], p_hold uuid[], p_account uuid[],
    p_amount bigint[], p_cost bigint[], p_ttl_s integer[], p_records json
) RETURNS TABLE (ord integer, outcome text, paid bigint, promo bigint, settled bigint,
                 available bigint)
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
#variable_conflict use_column
DECLARE
    n           integer := cardinality(p_kind);
    op          record;
    first       record;
    x_outcome   text[]   := array_fill(NULL::text, ARRAY[n]);
    x_account   uuid[]   := array_fill(NULL::uuid, ARRAY[n]);
    x_paid      bigint[] := array_fill(0::bigint, ARRAY[n]);
    x_promo     bigint[] := array_fill(0::bigint, ARRAY[n]);
    x_held_paid  bigint[] := array_fill(0::bigint, ARRAY[n]);
    x_held_promo bigint[] := array_fill(0::bigint, ARRAY[n]);
    x_settled   bigint[] := array_fill(0::bigint, ARRAY[n]);
    x_available bigint[] := array_fill(0::bigint, ARRAY[n]);
    v_account   uuid;
    v_paid      bigint := 0;
    v_promo     bigint := 0;
    v_amount    bigint;
    v_from      bigint;
    i           integer;
BEGIN
    PERFORM 1 FROM balances b WHERE b.account_id IN (
        SELECT a FROM unnest(p_account) AS a WHERE a IS NOT NULL
        UNION
        SELECT h.account_id FROM open_holds h WHERE h.hold_id = ANY (p_hold)
    ) ORDER BY b.account_id FOR UPDATE;

    FOR op IN
        SELECT o.ord::integer AS ord, o.kind, o.hold_id, o.amount, b.account_id AS account,
               b.paid AS b_paid, b.promo AS b_promo,
               h.hold_id AS open_id, h.paid AS h_paid, h.promo AS h_promo,
               e.id AS old_id, e.kind AS old_kind, e.account_id AS old_account,
               e.held_paid AS old_paid, e.held_promo AS old_promo
        FROM unnest(p_kind, p_hold, p_account, p_amount)
             WITH ORDINALITY AS o (kind, hold_id, account_id, amount, ord)
        LEFT JOIN open_holds h ON o.kind <> 'hold' AND h.hold_id = o.hold_id
        LEFT JOIN balances b ON b.account_id = coalesce(o.account_id, h.account_id)
        LEFT JOIN entries e ON o.kind = 'hold' AND e.id = o.hold_id
        ORDER BY b.account_id, o.ord
    LOOP
        i := op.ord;
        IF op.account IS DISTINCT FROM v_account THEN
            v_account := op.account;
            v_paid := op.b_paid;
            v_promo := op.b_promo;
        END IF;
        x_account[i] := op.account;
        IF op.kind = 'hold' THEN
            IF op.old_id IS NOT NULL THEN
                IF op.old_kind = 'hold' AND op.old_account = op.account
                   AND op.old_paid + op.old_promo = op.amount THEN
                    x_outcome[i] := 'exists';
                    x_held_paid[i] := op.old_paid;
                    x_held_promo[i] := op.old_promo;
                ELSE
                    x_outcome[i] := 'same_id_other_content';
                END IF;
            ELSIF op.account IS NULL THEN
                x_outcome[i] := 'no_such_account';
            ELSIF op.amount NOT BETWEEN 0 AND least(v_paid + v_promo, 10000000000000000) THEN
                x_outcome[i] := 'insufficient_credits';
            ELSE
                v_from := least(op.amount, v_promo);
                x_outcome[i] := 'done';
                x_promo[i] := -v_from;
                x_paid[i] := v_from - op.amount;
                x_held_promo[i] := v_from;
                x_held_paid[i] := op.amount - v_from;
                v_promo := v_promo - v_from;
                v_paid := v_paid - (op.amount - v_from);
            END IF;
        ELSIF op.open_id IS NULL THEN
            SELECT e.kind, e.account_id, e.revenue + e.loss AS settled, b.paid + b.promo AS left
                INTO first
                FROM entries e JOIN balances b ON b.account_id = e.account_id
                WHERE e.hold_id = op.hold_id AND e.kind IN ('settle', 'refund', 'expire');
            IF FOUND THEN
                x_outcome[i] := CASE first.kind WHEN 'settle' THEN 'already_settled'
                    WHEN 'refund' THEN 'already_refunded' ELSE 'already_expired' END;
                x_settled[i] := first.settled;
                -- These come last, so what the batch did before them is known by now.
                x_available[i] := first.left + coalesce((
                    SELECT sum(x_paid[j] + x_promo[j]) FROM generate_series(1, i - 1) AS j
                    WHERE x_account[j] = first.account_id AND x_outcome[j] = 'done'), 0);
            ELSE
                x_outcome[i] := 'no_such_hold';
            END IF;
            CONTINUE;
        ELSE
            v_amount := least(op.amount, op.h_paid + op.h_promo);
            v_from := least(v_amount, op.h_promo);
            x_outcome[i] := 'done';
            x_settled[i] := v_amount;
            x_promo[i] := op.h_promo - v_from;
            x_paid[i] := op.h_paid - (v_amount - v_from);
            x_held_promo[i] := -op.h_promo;
            x_held_paid[i] := -op.h_paid;
            v_promo := v_promo + x_promo[i];
            v_paid := v_paid + x_paid[i];
        END IF;
        x_available[i] := coalesce(v_paid + v_promo, 0);
    END LOOP;

    INSERT INTO entries (id, kind, account_id, hold_id, paid, promo, held_paid, held_promo,
                         revenue, loss, provider_cost, processor)
    SELECT CASE WHEN o.kind = 'hold' THEN o.hold_id ELSE gen_random_uuid() END,
           o.kind, o.account_id, o.hold_id, o.paid, o.promo, o.held_paid, o.held_promo,
           CASE WHEN o.kind = 'hold' THEN 0 ELSE o.amount END,
           CASE WHEN o.kind = 'hold' THEN 0 ELSE o.settled - o.amount END,
           -o.cost, o.cost
    FROM unnest(p_kind, p_hold, p_amount, p_cost, x_outcome, x_account, x_paid, x_promo,
                x_held_paid, x_held_promo, x_settled)
         AS o (kind, hold_id, amount, cost, outcome, account_id, paid, promo,
               held_paid, held_promo, settled)
    WHERE o.outcome = 'done';

    INSERT INTO open_holds (hold_id, account_id, paid, promo, expires_at)
    SELECT o.hold_id, o.account_id, o.held_paid, o.held_promo,
           now() + make_interval(secs => o.ttl_s)
    FROM unnest(p_kind, p_hold, x_account, x_held_paid, x_held_promo, p_ttl_s, x_outcome)
         AS o (kind, hold_id, account_id, held_paid, held_promo, ttl_s, outcome)
    WHERE o.kind = 'hold' AND o.outcome = 'done';

    DELETE FROM open_holds h
    USING unnest(p_kind, p_hold, x_outcome) AS o (kind, hold_id, outcome)
    WHERE h.hold_id = o.hold_id AND o.kind <> 'hold' AND o.outcome = 'done';

    UPDATE balances b
    SET paid = b.paid + d.paid, promo = b.promo + d.promo,
        held_paid = b.held_paid + d.held_paid, held_promo = b.held_promo + d.held_promo
    FROM (
        SELECT o.account_id, sum(o.paid)::bigint AS paid, sum(o.promo)::bigint AS promo,
               sum(o.held_paid)::bigint AS held_paid, sum(o.held_promo)::bigint AS held_promo
        FROM unnest(x_account, x_paid, x_promo, x_held_paid, x_held_promo, x_outcome)
             AS o (account_id, paid, promo, held_paid, held_promo, outcome)
        WHERE o.outcome = 'done'
        GROUP BY o.account_id
    ) d
    WHERE b.account_id = d.account_id;

    IF p_records IS NOT NULL THEN
        INSERT INTO usage_records (
            id, account_id, key_id, endpoint, requested_model, served_model, provider, layer,
            streamed, outcome, input_tokens, cache_read_tokens, cache_write_tokens,
            output_tokens, reasoning_tokens, evidence, price_version, charged, cache_discount,
            provider_cost, first_byte_ms, duration_ms, attempts, started_at)
        SELECT r.id, r.account_id, r.key_id, r.endpoint, r.requested_model, r.served_model,
               r.provider, r.layer, r.streamed, r.outcome, r.input_tokens, r.cache_read_tokens,
               r.cache_write_tokens, r.output_tokens, r.reasoning_tokens, r.evidence,
               r.price_version, o.settled, r.cache_discount, r.provider_cost, r.first_byte_ms,
               r.duration_ms, r.attempts, r.started_at
        FROM json_to_recordset(p_records) AS r (
            id uuid, account_id uuid, key_id uuid, endpoint text, requested_model text,
            served_model text, provider text, layer smallint, streamed boolean, outcome text,
            input_tokens bigint, cache_read_tokens bigint, cache_write_tokens bigint,
            output_tokens bigint, reasoning_tokens bigint, evidence text, price_version text,
            cache_discount bigint, provider_cost bigint, first_byte_ms integer,
            duration_ms integer, attempts jsonb, started_at timestamptz)
        JOIN unnest(p_kind, p_hold, x_outcome, x_settled) AS o (kind, hold_id, outcome, settled)
            ON o.hold_id = r.id AND o.kind <> 'hold' AND o.outcome = 'done';
    END IF;

    RETURN QUERY
    SELECT o.ord::integer, o.outcome,
           CASE WHEN o.kind = 'hold' THEN o.held_paid ELSE 0 END,
           CASE WHEN o.kind = 'hold' THEN o.held_promo ELSE 0 END,
           o.settled, o.available
    FROM unnest(p_kind, x_outcome, x_held_paid, x_held_promo, x_settled, x_available)
         WITH ORDINALITY AS o (kind, outcome, held_paid, held_promo, settled, available, ord);
END $$
-- ;
-- Books a deposit or a grant under the caller's id; a repeat changes nothing.
CREATE FUNCTION ledger_credit(
    p_id uuid, p_kind text, p_account uuid, p_amount bigint, p_reason text, p_actor text
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_old entries;
BEGIN
    PERFORM 1 FROM balances WHERE account_id = p_account FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'no_such_account';
    END IF;
    SELECT * INTO v_old FROM entries WHERE id = p_id;
    IF FOUND THEN
        IF v_old.kind = p_kind AND v_old.account_id = p_account
           AND v_old.paid + v_old.promo = p_amount THEN
            RETURN 'exists';
        END IF;
        RETURN 'same_id_other_content';
    END IF;
    IF p_kind = 'deposit' THEN
        INSERT INTO entries (id, kind, account_id, paid, processor, reason, actor)
        VALUES (p_id, p_kind, p_account, p_amount, -p_amount, p_reason, p_actor);
        UPDATE balances SET paid = paid + p_amount, deposited = deposited + p_amount
        WHERE account_id = p_account;
    ELSE
        INSERT INTO entries (id, kind, account_id, promo, promo_fund, reason, actor)
        VALUES (p_id, p_kind, p_account, p_amount, -p_amount, p_reason, p_actor);
        UPDATE balances SET promo = promo + p_amount WHERE account_id = p_account;
    END IF;
    RETURN 'done';
END $$
-- ;
-- Expires overdue holds by the database's clock; how many.
CREATE FUNCTION ledger_sweep(p_limit integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    v_holds uuid[];
    v_done  integer;
BEGIN
    SELECT array_agg(hold_id) INTO v_holds FROM (
        SELECT hold_id FROM open_holds WHERE expires_at <= now() ORDER BY expires_at LIMIT p_limit
    ) overdue;
    IF v_holds IS NULL THEN
        RETURN 0;
    END IF;
    SELECT count(*) FILTER (WHERE outcome = 'done') INTO v_done
    FROM ledger_apply(
        array_fill('expire'::text, ARRAY[cardinality(v_holds)]), v_holds,
        array_fill(NULL::uuid, ARRAY[cardinality(v_holds)]),
        array_fill(0::bigint, ARRAY[cardinality(v_holds)]),
        array_fill(0::bigint, ARRAY[cardinality(v_holds)]),
        array_fill(0, ARRAY[cardinality(v_holds)]), NULL);
    RETURN v_done;
END $$
