"""The statements of `identity.py`: what is due, overdue or used is decided in here."""

from __future__ import annotations

from sqlalchemy import text

ADD_DEVICE = text(
    """
    INSERT INTO device_codes AS d (user_code, digest, client_name, interval_s, expires_at)
    VALUES (:code, :digest, :name, :interval, now() + make_interval(secs => :ttl))
    ON CONFLICT (user_code) DO UPDATE
    SET digest = excluded.digest, client_name = excluded.client_name, state = 'pending',
        account_id = NULL, key_id = NULL, interval_s = excluded.interval_s, polled_at = NULL,
        created_at = now(), expires_at = excluded.expires_at
    WHERE d.expires_at <= now()
    RETURNING true
    """
)
FIND_DEVICE = text(
    """
    SELECT user_code, client_name, state FROM device_codes
    WHERE user_code = :code AND expires_at > now()
    """
)
DECIDE_DEVICE = text(
    """
    UPDATE device_codes SET state = :state, account_id = :account
    WHERE user_code = :code AND state = 'pending' AND expires_at > now()
    """
)
SHARE_OWNER_OF_DEVICE = text(
    """
    SELECT true FROM accounts
    WHERE id = (SELECT account_id FROM device_codes WHERE digest = :code) FOR SHARE
    """
)
POLL_DEVICE = text(
    """
    WITH seen AS (
        SELECT user_code, coalesce(state = 'pending' AND polled_at
                   > now() - make_interval(secs => interval_s - CAST(:tolerance AS float8)),
                   false) AS too_fast
        FROM device_codes WHERE digest = :digest AND expires_at > now() FOR UPDATE
    )
    UPDATE device_codes d
    SET polled_at = now(),
        interval_s = CASE WHEN seen.too_fast
                          THEN least(d.interval_s + CAST(:more AS integer), :most)
                          ELSE d.interval_s END
    FROM seen WHERE d.user_code = seen.user_code
    RETURNING d.state, d.interval_s, seen.too_fast, d.account_id::text AS account_id,
              (SELECT email FROM accounts a WHERE a.id = d.account_id) AS email
    """
)
SPEND_DEVICE = text(
    """
    WITH spent AS (
        UPDATE device_codes SET state = 'used', key_id = :id
        WHERE digest = :code AND state = 'approved' AND expires_at > now()
        RETURNING account_id, client_name
    )
    INSERT INTO api_keys (id, account_id, name, digest, prefix, last4, scopes)
    SELECT CAST(:id AS uuid), account_id, client_name, CAST(:digest AS bytea),
           CAST(:prefix AS text), CAST(:last4 AS text), CAST(:scopes AS text[])
    FROM spent
    RETURNING account_id::text
    """
)
TIDY_DEVICES = text("DELETE FROM device_codes WHERE expires_at < now() - interval '1 day'")

ADD_CODE = text(
    """
    INSERT INTO authorization_codes
        (digest, client_id, redirect_uri, challenge, account_id, expires_at)
    VALUES (:digest, :client, :uri, :challenge, :account, now() + make_interval(secs => :ttl))
    """
)
OWNER_OF_CODE = text(
    """
    SELECT a.id::text AS id, a.email, a.password_hash, a.created_at, a.bound
    FROM authorization_codes c JOIN accounts a ON a.id = c.account_id WHERE c.digest = :digest
    """
)
SHARE_OWNER_OF_CODE = text(
    """
    SELECT true FROM accounts
    WHERE id = (SELECT account_id FROM authorization_codes WHERE digest = :digest) FOR SHARE
    """
)
LOCK_CODE = text(
    """
    SELECT account_id::text AS account_id, key_id::text AS key_id, used_at,
           expires_at > now() AND client_id = :client AND redirect_uri = :uri
               AND challenge = :challenge AS fits
    FROM authorization_codes WHERE digest = :digest FOR UPDATE
    """
)
BURN_CODE = text("UPDATE authorization_codes SET used_at = now() WHERE digest = :code")
SPEND_CODE = text(
    "UPDATE authorization_codes SET used_at = now(), key_id = :id WHERE digest = :code"
)
MAKE_KEY = text(
    """
    INSERT INTO api_keys (id, account_id, name, digest, prefix, last4, scopes)
    VALUES (:id, :account, :name, :digest, :prefix, :last4, :scopes)
    """
)
REVOKE_KEY = text("UPDATE api_keys SET revoked_at = now() WHERE id = :key AND revoked_at IS NULL")
TIDY_CODES = text("DELETE FROM authorization_codes WHERE expires_at < now() - interval '1 day'")

ADD_LINK = text(
    """
    INSERT INTO links (digest, kind, account_id, email, issuer, subject, expires_at)
    VALUES (:digest, :kind, :account, :email, :issuer, :subject,
            now() + make_interval(secs => :ttl))
    """
)
FIND_LINK = text(
    """
    SELECT kind, account_id::text AS account_id, email, issuer, subject FROM links
    WHERE digest = :digest AND kind = :kind AND used_at IS NULL AND expires_at > now()
    """
)
TAKE_LINK = text(
    """
    UPDATE links SET used_at = now()
    WHERE digest = :digest AND kind = :kind AND used_at IS NULL AND expires_at > now()
    RETURNING kind, account_id::text AS account_id, email, issuer, subject
    """
)
USE_UP_LINKS = text(
    """
    UPDATE links SET used_at = now()
    WHERE account_id = :account AND kind = 'reset' AND used_at IS NULL
    """
)
TIDY_LINKS = text("DELETE FROM links WHERE expires_at < now() - interval '1 day'")

ACCOUNT = text(
    """
    SELECT id::text AS id, email, password_hash, created_at, bound FROM accounts
    WHERE id = :account
    """
)
ACCOUNT_OF_IDENTITY = text(
    """
    SELECT a.id::text AS id, a.email, a.password_hash, a.created_at, a.bound
    FROM identities i JOIN accounts a ON a.id = i.account_id
    WHERE i.issuer = :issuer AND i.subject = :subject
    """
)
ADD_ACCOUNT = text(
    """
    INSERT INTO accounts (id, email, password_hash, created_at, bound, email_verified_at)
    VALUES (:account, :email, :hash, :created, true, now()) ON CONFLICT DO NOTHING
    """
)
ADD_BALANCE = text("INSERT INTO balances (account_id) VALUES (:account)")
SIGN_UP_CREDIT = text(
    "SELECT ledger_credit(:account, 'grant', :account, :bonus, 'sign-up credit', '')"
)
ATTACH = text(
    """
    INSERT INTO identities AS i (issuer, subject, account_id, email)
    VALUES (:issuer, :subject, :account, :email)
    ON CONFLICT (issuer, subject) DO UPDATE SET email = excluded.email
    WHERE i.account_id = excluded.account_id
    RETURNING true
    """
)
SET_PASSWORD = text("UPDATE accounts SET password_hash = :hash WHERE id = :account")
REVOKE_KEYS = text(
    "UPDATE api_keys SET revoked_at = now() WHERE account_id = :account AND revoked_at IS NULL"
)
IS_PROVEN = text("SELECT email_verified_at IS NOT NULL FROM accounts WHERE id = :account")
LOCK_PASSWORD = text(
    "SELECT true FROM accounts WHERE id = :account AND password_hash = :hash FOR UPDATE"
)
LOCK_PROOF = text(
    """
    SELECT email_verified_at IS NOT NULL FROM accounts
    WHERE id = (SELECT account_id FROM links WHERE digest = :digest) FOR UPDATE
    """
)
PROVE = text(
    """
    WITH before AS (
        SELECT id, bound FROM accounts
        WHERE id = :account AND lower(email) = lower(:email) FOR UPDATE
    )
    UPDATE accounts a
    SET bound = true, email_verified_at = coalesce(a.email_verified_at, now())
    FROM before WHERE a.id = before.id AND (before.bound OR NOT EXISTS (
        SELECT 1 FROM accounts o WHERE lower(o.email) = lower(:email) AND o.bound))
    RETURNING NOT before.bound AS newly_bound
    """
)
