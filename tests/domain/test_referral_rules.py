from __future__ import annotations

import pytest

from kyma.money import usd
from kyma.referrals import Side, Tally, code_of, entry_id, same_mailbox


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ada@example.com", "ada@example.com"),
        ("ada@example.com", "ADA@Example.com "),
        ("ada@example.com", "ada+kyma@example.com"),
        ("ada+a@example.com", "ada+b@example.com"),
        ("ada.lovelace@gmail.com", "adalovelace@gmail.com"),
        ("ada.lovelace@gmail.com", "a.d.a.lovelace+x@googlemail.com"),
    ],
)
def test_spellings_of_one_mailbox_are_one_person(one: str, other: str) -> None:
    assert same_mailbox(one, other)
    assert same_mailbox(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ada@example.com", "grace@example.com"),
        ("ada@example.com", "ada@example.org"),
        ("ada.lovelace@example.com", "adalovelace@example.com"),
        ("ada@gmail.com", "ada@gmail.com.example.com"),
    ],
)
def test_other_mailboxes_are_other_people(one: str, other: str) -> None:
    assert not same_mailbox(one, other)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("0123456789", "0123456789"),
        (" 0123ABCDEF\n", "0123abcdef"),
        ("012345678", None),
        ("0123456789a", None),
        ("0123x56789", None),
        ("٠١٢٣٤٥٦٧٨٩", None),
        ("", None),
    ],
)
def test_a_code_has_one_form(text: str, code: str | None) -> None:
    assert code_of(text) == code


def test_each_side_of_each_referral_has_one_entry_of_its_own() -> None:
    ids = [entry_id(referral, side) for referral in ("a" * 32, "b" * 32) for side in Side]
    assert len(set(ids)) == 4
    assert ids == [entry_id(referral, side) for referral in ("a" * 32, "b" * 32) for side in Side]
    assert all(len(id) == 32 and set(id) <= set("0123456789abcdef") for id in ids)


def test_what_was_earned_is_a_reward_for_each_verified_one() -> None:
    assert Tally(pending=3, verified=2, void=1).earned == usd("1.00")
