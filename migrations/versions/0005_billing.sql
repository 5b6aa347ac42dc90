-- What a correction corrects: the deposit of a reversal, the reversal of a reinstatement.
-- `excess` is what a reversal sent back beyond what its deposit had left: it is our loss, and
-- lowers no tier. A reinstatement has it with the other sign, so that of deposits, reversals and
-- reinstatements alike `excess - processor` is what they add to lifetime deposits.
ALTER TABLE entries
    ADD COLUMN corrects uuid,
    ADD COLUMN excess bigint NOT NULL DEFAULT 0,
    DROP CONSTRAINT entries_kind_check,
    DROP CONSTRAINT entries_check,
    DROP CONSTRAINT entries_loss_check,
    ADD CONSTRAINT entries_kind_check CHECK (kind IN (
        'deposit', 'grant', 'hold', 'settle', 'refund', 'expire', 'reversal', 'reinstate')),
    ADD CONSTRAINT entries_hold_check CHECK (
        (hold_id IS NULL) = (kind IN ('deposit', 'grant', 'reversal', 'reinstate'))),
    ADD CONSTRAINT entries_corrects_check CHECK (
        (corrects IS NOT NULL) = (kind IN ('reversal', 'reinstate'))),
    ADD CONSTRAINT entries_loss_check CHECK (loss <= 0 OR kind = 'reinstate'),
    ADD CONSTRAINT entries_excess_check CHECK (CASE kind
        WHEN 'reversal' THEN excess BETWEEN 0 AND processor
        WHEN 'reinstate' THEN excess BETWEEN processor AND 0
        ELSE excess = 0 END)
-- ;
CREATE INDEX entries_corrects ON entries (corrects) WHERE corrects IS NOT NULL
-- ;
CREATE UNIQUE INDEX entries_one_reinstatement ON entries (corrects) WHERE kind = 'reinstate'
-- ;
DROP TRIGGER deposits_changed ON entries
-- ;
CREATE TRIGGER deposits_changed AFTER INSERT ON entries
    FOR EACH ROW WHEN (NEW.kind IN ('deposit', 'reversal', 'reinstate'))
    EXECUTE FUNCTION note_account_change()
-- ;
-- Accounts that an operator should look at: more went back than was left. `entry_id` says when.
CREATE TABLE account_flags (
    entry_id   uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    amount     bigint NOT NULL CHECK (amount > 0),
    reason     text NOT NULL,
    flagged_at timestamptz NOT NULL DEFAULT now()
)
-- ;
CREATE INDEX account_flags_account ON account_flags (account_id)
-- ;
CREATE INDEX account_flags_time ON account_flags (flagged_at DESC)
-- ;
CREATE TRIGGER account_flags_append_only BEFORE UPDATE OR DELETE ON account_flags
    FOR EACH ROW EXECUTE FUNCTION refuse_change()
-- ;
-- Takes back what a deposit brought, as far as free paid credit is there; the rest is loss.
-- The rule is kyma/ledger.py's; tests hold this function to it.
CREATE FUNCTION ledger_reverse(
    p_id uuid, p_deposit uuid, p_amount bigint, p_reason text
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_deposit  entries;
    v_old      entries;
    v_paid     bigint;
    v_left     bigint;
    v_fitting  bigint;
    v_taken    bigint;
BEGIN
    SELECT * INTO v_deposit FROM entries WHERE id = p_deposit AND kind = 'deposit';
    IF NOT FOUND THEN
        RETURN 'no_such_entry';
    END IF;
    SELECT paid INTO v_paid FROM balances WHERE account_id = v_deposit.account_id FOR UPDATE;
    SELECT * INTO v_old FROM entries WHERE id = p_id;
    IF FOUND THEN
        IF v_old.kind = 'reversal' AND v_old.corrects = p_deposit
           AND v_old.processor = p_amount THEN
            RETURN 'exists';
        END IF;
        RETURN 'same_id_other_content';
    END IF;
    SELECT v_deposit.paid + coalesce(sum(e.excess - e.processor), 0) INTO v_left
    FROM entries e
    WHERE e.corrects = p_deposit
       OR e.corrects IN (SELECT r.id FROM entries r WHERE r.corrects = p_deposit);
    v_fitting := least(p_amount, v_left);
    v_taken := least(v_fitting, v_paid);
    INSERT INTO entries (id, kind, account_id, corrects, paid, processor, loss, excess, reason)
    VALUES (p_id, 'reversal', v_deposit.account_id, p_deposit, -v_taken, p_amount,
            v_taken - p_amount, p_amount - v_fitting, p_reason);
    UPDATE balances SET paid = paid - v_taken, deposited = deposited - v_fitting
    WHERE account_id = v_deposit.account_id;
    IF v_taken < p_amount THEN
        INSERT INTO account_flags (entry_id, account_id, amount, reason)
        VALUES (p_id, v_deposit.account_id, p_amount - v_taken, p_reason);
    END IF;
    RETURN 'done';
END $$
-- ;
-- Undoes a reversal, leg by leg.
CREATE FUNCTION ledger_reinstate(p_id uuid, p_reversal uuid, p_reason text)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_reversal entries;
    v_old      entries;
BEGIN
    SELECT * INTO v_reversal FROM entries WHERE id = p_reversal AND kind = 'reversal';
    IF NOT FOUND THEN
        RETURN 'no_such_entry';
    END IF;
    PERFORM 1 FROM balances WHERE account_id = v_reversal.account_id FOR UPDATE;
    SELECT * INTO v_old FROM entries WHERE id = p_id;
    IF FOUND THEN
        IF v_old.kind = 'reinstate' AND v_old.corrects = p_reversal THEN
            RETURN 'exists';
        END IF;
        RETURN 'same_id_other_content';
    END IF;
    IF EXISTS (SELECT 1 FROM entries WHERE corrects = p_reversal) THEN
        RETURN 'same_id_other_content';
    END IF;
    INSERT INTO entries (id, kind, account_id, corrects, paid, processor, loss, excess, reason)
    VALUES (p_id, 'reinstate', v_reversal.account_id, p_reversal, -v_reversal.paid,
            -v_reversal.processor, -v_reversal.loss, -v_reversal.excess, p_reason);
    UPDATE balances
    SET paid = paid - v_reversal.paid,
        deposited = deposited + v_reversal.processor - v_reversal.excess
    WHERE account_id = v_reversal.account_id;
    RETURN 'done';
END $$
-- ;
-- Who an account is at the payment processor.
CREATE TABLE billing_customers (
    account_id uuid PRIMARY KEY REFERENCES accounts (id),
    customer   text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
)
-- ;
-- What accounts want to buy, and how far that has come. What was credited is in `entries`.
CREATE TABLE orders (
    id          uuid PRIMARY KEY,
    account_id  uuid NOT NULL REFERENCES accounts (id),
    customer    text NOT NULL,
    amount      bigint NOT NULL CHECK (amount > 0),
    source      text NOT NULL CHECK (source IN ('checkout', 'card', 'auto_top_up')),
    created_at  timestamptz NOT NULL,
    state       text NOT NULL DEFAULT 'open' CHECK (state IN (
                    'open', 'needs_action', 'credited', 'failed', 'canceled', 'refused')),
    message     text NOT NULL DEFAULT '',
    action_url  text,
    checkout_id text UNIQUE,
    checkout_url text,
    expires_at  timestamptz,
    payment_id  text,
    changed_at  timestamptz NOT NULL DEFAULT now()
)
-- ;
CREATE INDEX orders_account ON orders (account_id, created_at DESC)
-- ;
CREATE INDEX orders_waiting ON orders (changed_at) WHERE state IN ('open', 'needs_action')
-- ;
-- Payments as the processor had them when they were last looked at. `entry_id` is the deposit;
-- a paid one without it is "paid, not credited", and `refusal` says why. `returned` is what went
-- back of it since.
CREATE TABLE payments (
    id          text PRIMARY KEY,
    order_id    text NOT NULL,
    account_id  text NOT NULL,
    customer    text NOT NULL,
    amount      bigint NOT NULL,
    tax         bigint NOT NULL,
    currency    text NOT NULL,
    state       text NOT NULL,
    card        text,
    receipt_url text,
    invoice_url text,
    created_at  timestamptz NOT NULL,
    returned    bigint NOT NULL DEFAULT 0,
    refusal     text NOT NULL DEFAULT '',
    entry_id    uuid UNIQUE,
    seen_at     timestamptz NOT NULL DEFAULT now()
)
-- ;
CREATE UNIQUE INDEX payments_one_credit ON payments (order_id) WHERE entry_id IS NOT NULL
-- ;
CREATE INDEX payments_uncredited ON payments (created_at)
    WHERE state = 'paid' AND entry_id IS NULL AND returned < amount
-- ;
-- Signed notices. One is `processed` in the transaction that does what it caused.
CREATE TABLE processor_events (
    id           text PRIMARY KEY,
    kind         text NOT NULL,
    payment_id   text,
    checkout_id  text,
    created_at   timestamptz NOT NULL,
    received_at  timestamptz NOT NULL DEFAULT now(),
    processed_at timestamptz
)
-- ;
CREATE INDEX processor_events_waiting ON processor_events (received_at)
    WHERE processed_at IS NULL
-- ;
-- When the processor was last asked for everything: one row.
CREATE TABLE reconciliations (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    started_at timestamptz NOT NULL
)
-- ;
CREATE TABLE auto_top_ups (
    account_id      uuid PRIMARY KEY REFERENCES accounts (id),
    enabled         boolean NOT NULL,
    threshold       bigint NOT NULL CHECK (threshold > 0),
    amount          bigint NOT NULL CHECK (amount >= threshold),
    monthly_ceiling bigint NOT NULL CHECK (monthly_ceiling >= amount),
    failures        smallint NOT NULL DEFAULT 0 CHECK (failures >= 0),
    not_before      timestamptz,
    message         text NOT NULL DEFAULT ''
)
-- ;
CREATE INDEX auto_top_ups_enabled ON auto_top_ups (account_id) WHERE enabled
-- ;
CREATE TABLE top_up_attempts (
    order_id   uuid PRIMARY KEY REFERENCES orders (id),
    account_id uuid NOT NULL REFERENCES accounts (id),
    card_id    text NOT NULL,
    amount     bigint NOT NULL CHECK (amount > 0),
    state      text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'paid', 'failed')),
    created_at timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz
)
-- ;
-- Whoever sees the threshold crossed, one of them charges.
CREATE UNIQUE INDEX top_up_attempts_one_running ON top_up_attempts (account_id)
    WHERE state = 'running'
-- ;
CREATE INDEX top_up_attempts_month ON top_up_attempts (account_id, created_at)
-- ;
-- Whose balance may yet be called low: a deposit arms it, the letter disarms it.
CREATE TABLE low_balance_alarms (
    account_id uuid PRIMARY KEY,
    armed_by   uuid NOT NULL
)
-- ;
CREATE FUNCTION arm_low_balance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO low_balance_alarms (account_id, armed_by) VALUES (NEW.account_id, NEW.id)
    ON CONFLICT (account_id) DO UPDATE SET armed_by = excluded.armed_by;
    RETURN NULL;
END $$
-- ;
CREATE TRIGGER deposits_arm AFTER INSERT ON entries
    FOR EACH ROW WHEN (NEW.kind = 'deposit') EXECUTE FUNCTION arm_low_balance()
