-- When an operator settled a payment that was not credited: a grant stands in `entries` under the
-- id that its deposit would have (kyma/flows/settlements.py).
ALTER TABLE payments ADD COLUMN settled_at timestamptz
-- ;
DROP INDEX payments_uncredited
-- ;
CREATE INDEX payments_uncredited ON payments (created_at)
    WHERE state = 'paid' AND entry_id IS NULL AND settled_at IS NULL AND returned < amount
