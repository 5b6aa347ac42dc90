-- What a key may do. Keys that exist keep everything; empty lists allow all. Money is nano-dollars.
-- After a rotation `previous_digest` is the secret before, which works until `previous_until`.
-- `used_at` is coarse: written at most once an hour.
ALTER TABLE api_keys
    ADD COLUMN scopes text[] NOT NULL DEFAULT '{inference,account.read,keys.manage,billing}',
    ADD COLUMN allowed_models text[] NOT NULL DEFAULT '{}',
    ADD COLUMN networks text[] NOT NULL DEFAULT '{}',
    ADD COLUMN monthly_cap bigint CHECK (monthly_cap >= 0),
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN used_at timestamptz,
    ADD COLUMN previous_digest bytea CHECK (length(previous_digest) = 32),
    ADD COLUMN previous_until timestamptz
        CHECK ((previous_until IS NULL) = (previous_digest IS NULL))
-- ;
CREATE UNIQUE INDEX api_keys_previous ON api_keys (previous_digest)
    WHERE previous_digest IS NOT NULL
-- ;
ALTER TABLE sessions
    ADD COLUMN user_agent text NOT NULL DEFAULT '',
    ADD COLUMN used_at timestamptz,
    ADD COLUMN ended_at timestamptz
-- ;
CREATE INDEX sessions_account ON sessions (account_id, created_at DESC)
-- ;
-- Only what admission depends on is a change: a name or a last use is none.
DROP TRIGGER api_keys_changed ON api_keys
-- ;
CREATE TRIGGER api_keys_changed AFTER UPDATE OF
    digest, revoked_at, replay_minutes, scopes, allowed_models, networks, monthly_cap, expires_at,
    previous_digest, previous_until ON api_keys
    FOR EACH ROW EXECUTE FUNCTION note_account_change()
-- ;
DROP TRIGGER sessions_changed ON sessions
-- ;
CREATE TRIGGER sessions_changed AFTER UPDATE OF expires_at, ended_at ON sessions
    FOR EACH ROW EXECUTE FUNCTION note_account_change()
-- ;
-- An address signs in to one account, the one that it is bound to. An account whose owner has not
-- shown yet that the address is theirs may be unbound: it is used by its key and its session.
ALTER TABLE accounts
    ADD COLUMN bound boolean NOT NULL DEFAULT true,
    ADD COLUMN email_verified_at timestamptz,
    ADD CONSTRAINT accounts_verified_is_bound CHECK (bound OR email_verified_at IS NULL)
-- ;
DROP INDEX accounts_email
-- ;
CREATE UNIQUE INDEX accounts_email ON accounts (lower(email)) WHERE bound
-- ;
-- Whether any key of the account has a monthly cap: read where the row is locked anyway, so that
-- accounts without caps pay nothing for those with.
ALTER TABLE balances ADD COLUMN capped boolean NOT NULL DEFAULT false
-- ;
-- Whose key a hold was placed with, and the month of whose cap it counts against, if of any.
ALTER TABLE open_holds
    ADD COLUMN key_id uuid,
    ADD COLUMN capped_month date CHECK (capped_month IS NULL OR key_id IS NOT NULL)
-- ;
-- What a key with a cap has spent in a calendar month (UTC) and what its open holds reserve.
-- Written by the transaction that writes the entry, under the lock of the account's balance.
CREATE TABLE key_months (
    key_id   uuid NOT NULL,
    month    date NOT NULL CHECK (extract(day FROM month) = 1),
    reserved bigint NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    spent    bigint NOT NULL DEFAULT 0 CHECK (spent >= 0),
    PRIMARY KEY (key_id, month)
) WITH (fillfactor = 70)
-- ;
-- Sets or lifts a key's cap. A cap counts the whole month: what the key has spent in it before is
-- summed up here, once, while no hold and no resolution of the account can come between.
CREATE FUNCTION key_cap(p_account uuid, p_key uuid, p_cap bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_old   bigint;
    v_month date := date_trunc('month', now() AT TIME ZONE 'UTC')::date;
    v_since timestamptz := v_month::timestamp AT TIME ZONE 'UTC';
BEGIN
    PERFORM 1 FROM balances WHERE account_id = p_account FOR UPDATE;
    SELECT monthly_cap INTO v_old FROM api_keys
        WHERE id = p_key AND account_id = p_account FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    UPDATE api_keys SET monthly_cap = p_cap WHERE id = p_key;
    UPDATE balances SET capped = EXISTS (
        SELECT 1 FROM api_keys k
        WHERE k.account_id = p_account AND k.monthly_cap IS NOT NULL AND k.revoked_at IS NULL)
    WHERE account_id = p_account;
    IF p_cap IS NULL OR v_old IS NOT NULL THEN
        RETURN;
    END IF;
    UPDATE open_holds h SET capped_month = v_month FROM entries e
    WHERE h.account_id = p_account AND h.key_id = p_key AND h.capped_month IS NULL
      AND e.id = h.hold_id AND e.created_at >= v_since;
    INSERT INTO key_months (key_id, month, reserved, spent)
    SELECT p_key, v_month, coalesce((
        SELECT sum(h.paid + h.promo) FROM open_holds h
        WHERE h.account_id = p_account AND h.key_id = p_key AND h.capped_month = v_month
    ), 0), coalesce((
        SELECT sum(u.charged) FROM usage_records u JOIN entries e ON e.id = u.id
        WHERE u.account_id = p_account AND u.key_id = p_key
          AND u.created_at >= v_since AND e.created_at >= v_since
    ), 0)
    ON CONFLICT (key_id, month)
    DO UPDATE SET reserved = EXCLUDED.reserved, spent = EXCLUDED.spent;
END $$
-- ;
-- A new signature: the processes that still run the version before go on calling it without keys.
DROP FUNCTION ledger_apply(text[], uuid[], uuid[], bigint[], bigint[], integer[], json)
-- ;
-- As before (0001, 0004), and holds of keys: one that would take a key over its monthly cap is
-- refused, with what is left of the cap as `settled`. A hold counts in the month it is placed in,
-- and so does what is settled of it later.
CREATE FUNCTION ledger_apply(
    p_kind text[], p_hold uuid[], p_account uuid[],
    p_amount bigint[], p_cost bigint[], p_ttl_s integer[], p_records json,
    p_key uuid[] DEFAULT NULL
) RETURNS TABLE (ord integer, outcome text, paid bigint, promo bigint, settled bigint,
                 available bigint)
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
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
    x_month     date[]   := array_fill(NULL::date, ARRAY[n]);
    v_account   uuid;
    v_paid      bigint := 0;
    v_promo     bigint := 0;
    v_amount    bigint;
    v_from      bigint;
    v_left      bigint;
    v_month     date := date_trunc('month', now() AT TIME ZONE 'UTC')::date;
    i           integer;
BEGIN
    PERFORM 1 FROM balances b WHERE b.account_id IN (
        SELECT a FROM unnest(p_account) AS a WHERE a IS NOT NULL
        UNION
        SELECT h.account_id FROM open_holds h WHERE h.hold_id = ANY (p_hold)
    ) ORDER BY b.account_id FOR UPDATE;

    FOR op IN
        SELECT o.ord::integer AS ord, o.kind, o.hold_id, o.amount, o.key_id,
               b.account_id AS account, b.paid AS b_paid, b.promo AS b_promo, b.capped,
               h.hold_id AS open_id, h.paid AS h_paid, h.promo AS h_promo,
               h.key_id AS h_key, h.capped_month AS h_month,
               e.id AS old_id, e.kind AS old_kind, e.account_id AS old_account,
               e.held_paid AS old_paid, e.held_promo AS old_promo
        FROM unnest(p_kind, p_hold, p_account, p_amount, p_key)
             WITH ORDINALITY AS o (kind, hold_id, account_id, amount, key_id, ord)
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
                v_left := NULL;
                IF op.capped AND op.key_id IS NOT NULL THEN
                    SELECT greatest(k.monthly_cap - coalesce(m.reserved + m.spent, 0), 0)
                        INTO v_left
                        FROM api_keys k
                        LEFT JOIN key_months m ON m.key_id = k.id AND m.month = v_month
                        WHERE k.id = op.key_id AND k.account_id = op.account
                          AND k.monthly_cap IS NOT NULL;
                END IF;
                IF op.amount > v_left THEN
                    x_outcome[i] := 'key_cap_reached';
                    x_settled[i] := v_left;
                    x_available[i] := v_paid + v_promo;
                    CONTINUE;
                ELSIF v_left IS NOT NULL THEN
                    x_month[i] := v_month;
                    INSERT INTO key_months AS m (key_id, month, reserved)
                        VALUES (op.key_id, v_month, op.amount)
                        ON CONFLICT (key_id, month)
                        DO UPDATE SET reserved = m.reserved + EXCLUDED.reserved;
                END IF;
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
            IF op.h_month IS NOT NULL THEN
                UPDATE key_months m
                SET reserved = m.reserved - op.h_paid - op.h_promo, spent = m.spent + v_amount
                WHERE m.key_id = op.h_key AND m.month = op.h_month;
            END IF;
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

    INSERT INTO open_holds (hold_id, account_id, paid, promo, expires_at, key_id, capped_month)
    SELECT o.hold_id, o.account_id, o.held_paid, o.held_promo,
           now() + make_interval(secs => o.ttl_s), o.key_id, o.month
    FROM unnest(p_kind, p_hold, x_account, x_held_paid, x_held_promo, p_ttl_s, x_outcome, p_key,
                x_month)
         AS o (kind, hold_id, account_id, held_paid, held_promo, ttl_s, outcome, key_id, month)
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
