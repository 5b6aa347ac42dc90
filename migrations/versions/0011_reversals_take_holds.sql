-- Takes back what a deposit brought: of free paid credit first, then of what open holds reserve,
-- the newest first. The rest is loss. The rule is kyma/ledger.py's; tests hold this function to it.
CREATE OR REPLACE FUNCTION ledger_reverse(
    p_id uuid, p_deposit uuid, p_amount bigint, p_reason text
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_deposit  entries;
    v_old      entries;
    v_balance  balances;
    v_left     bigint;
    v_fitting  bigint;
    v_free     bigint;
    v_held     bigint;
    v_short    bigint;
BEGIN
    SELECT * INTO v_deposit FROM entries WHERE id = p_deposit AND kind = 'deposit';
    IF NOT FOUND THEN
        RETURN 'no_such_entry';
    END IF;
    SELECT * INTO v_balance FROM balances WHERE account_id = v_deposit.account_id FOR UPDATE;
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
    v_free := least(v_fitting, v_balance.paid);
    v_held := least(v_fitting - v_free, v_balance.held_paid);
    v_short := p_amount - v_free - v_held;
    INSERT INTO entries (id, kind, account_id, corrects, paid, held_paid, processor, loss, excess,
                         reason)
    VALUES (p_id, 'reversal', v_deposit.account_id, p_deposit, -v_free, -v_held, p_amount, -v_short,
            p_amount - v_fitting, p_reason);
    UPDATE balances SET paid = paid - v_free, held_paid = held_paid - v_held,
                        deposited = deposited - v_fitting
    WHERE account_id = v_deposit.account_id;
    IF v_held > 0 THEN
        PERFORM holds_shrink(v_deposit.account_id, v_held);
    END IF;
    IF v_short > 0 THEN
        INSERT INTO account_flags (entry_id, account_id, amount, reason)
        VALUES (p_id, v_deposit.account_id, v_short, p_reason);
    END IF;
    RETURN 'done';
END $$
-- ;
-- Lessens what an account's open holds reserve of its paid credit; its row of `balances` is
-- locked. A hold that is less than its request's bill settles for less: the rest is loss then.
CREATE FUNCTION holds_shrink(p_account uuid, p_amount bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_hold  open_holds;
    v_taken bigint;
    v_left  bigint := p_amount;
BEGIN
    FOR v_hold IN
        SELECT * FROM open_holds WHERE account_id = p_account AND paid > 0 ORDER BY hold_id DESC
    LOOP
        EXIT WHEN v_left = 0;
        v_taken := least(v_left, v_hold.paid);
        v_left := v_left - v_taken;
        UPDATE open_holds SET paid = paid - v_taken WHERE hold_id = v_hold.hold_id;
        UPDATE key_months SET reserved = reserved - v_taken
        WHERE key_id = v_hold.key_id AND month = v_hold.capped_month;
    END LOOP;
END $$
-- ;
-- Undoes a reversal: all that it took is free again.
CREATE OR REPLACE FUNCTION ledger_reinstate(p_id uuid, p_reversal uuid, p_reason text)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_reversal entries;
    v_old      entries;
    v_taken    bigint;
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
    v_taken := -v_reversal.paid - v_reversal.held_paid;
    INSERT INTO entries (id, kind, account_id, corrects, paid, processor, loss, excess, reason)
    VALUES (p_id, 'reinstate', v_reversal.account_id, p_reversal, v_taken,
            -v_reversal.processor, -v_reversal.loss, -v_reversal.excess, p_reason);
    UPDATE balances
    SET paid = paid + v_taken,
        deposited = deposited + v_reversal.processor - v_reversal.excess
    WHERE account_id = v_reversal.account_id;
    RETURN 'done';
END $$
