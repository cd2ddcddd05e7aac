"""How much each principal may send and hold."""

import pytest

from emitd_handlers.principal import Principal
from emitd_server.access import limits
from emitd_server.access.limits import CallerLimits
from emitd_server.errors import MemoryExhausted, RateExceeded, TooManyWatchers
from emitd_server.settings import LimitSettings

SHOP, BANK = Principal("shop", "token"), Principal("bank", "token")


class FakeTime:
    """The module's `time`, set by hand."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    """Set the clock of the module."""
    fake = FakeTime()
    monkeypatch.setattr(limits, "time", fake)
    return fake


def made(**settings: int) -> CallerLimits:
    return CallerLimits(LimitSettings(**settings))


def test_a_principal_that_has_sent_too_much_waits_and_others_do_not(clock: FakeTime) -> None:
    """A request may overdraw the balance, which is paid off at the rate; the error says when."""
    all_of_them = made(bytes_per_second=1000)
    shop = all_of_them.of(SHOP)
    shop.refuse_if_spent()
    shop.spend(3000)  # 2000 over
    with pytest.raises(
        RateExceeded, match=r"1000 bytes a second, the limit of server\.limits\.bytes_per_second"
    ) as caught:
        shop.refuse_if_spent()
    assert caught.value.retry_after_seconds == pytest.approx(2.001)
    all_of_them.of(BANK).refuse_if_spent()
    clock.now += 1.9
    with pytest.raises(RateExceeded):
        shop.refuse_if_spent()
    clock.now += 0.2
    shop.refuse_if_spent()


def test_a_pause_saves_up_one_second_and_no_more(clock: FakeTime) -> None:
    """However long it was."""
    shop = made(bytes_per_second=1000).of(SHOP)
    clock.now += 3600
    shop.spend(1000)
    with pytest.raises(RateExceeded):
        shop.refuse_if_spent()


def test_one_principal_holds_half_of_the_memory_at_most() -> None:
    """A single request of any size that the account takes is taken."""
    all_of_them = made(memory_bytes=1000)
    shop = all_of_them.of(SHOP)
    with shop.holding(700):
        with (
            pytest.raises(
                MemoryExhausted,
                match=r"hold 700 bytes, and may hold 500, half of server\.limits\.memory_bytes",
            ),
            shop.holding(1),
        ):
            pass
        with all_of_them.of(BANK).holding(300):
            pass
    with shop.holding(250), shop.holding(250):
        pass
    assert shop.held == 0


def test_the_streams_of_one_principal_are_bounded() -> None:
    """A stream that ends makes room."""
    shop = made(max_streams_per_principal=1).of(SHOP)
    with shop.stream(), pytest.raises(TooManyWatchers, match="max_streams_per_principal"), shop.stream():
        pass
    with shop.stream():
        pass


def test_callers_without_a_name_have_no_limits_of_their_own() -> None:
    """They are those of loopback, or of a listener that the operator called insecure."""
    nobody = made(bytes_per_second=1, memory_bytes=1, max_streams_per_principal=1).of(
        Principal("anonymous", "anonymous")
    )
    nobody.spend(10**9)
    nobody.refuse_if_spent()
    with nobody.holding(10**9), nobody.holding(10**9), nobody.stream(), nobody.stream():
        pass


def test_principals_that_hold_nothing_are_forgotten(clock: FakeTime) -> None:
    """One that owes, or has a stream open, is kept: forgetting it would forgive it."""
    all_of_them = made(bytes_per_second=1000)
    owing, streaming = all_of_them.of(SHOP), all_of_them.of(BANK)
    owing.spend(10**9)
    with streaming.stream():
        for number in range(10_000):
            all_of_them.of(Principal(f"p{number}", "jwt"))
        assert all_of_them.of(SHOP) is owing
        assert all_of_them.of(BANK) is streaming
        assert len(all_of_them._allowances) <= limits.MAX_REMEMBERED + 1
