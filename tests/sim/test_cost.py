"""Cost profiles: the figures hang together, and a wrong override is answered by key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epcgroup.errors import InputError
from epcgroup.sim import cost


def test_reload_fault_with_one_eviction_is_about_41000_cycles_by_default() -> None:
    default = cost.profile("default")
    assert default.reload_fault_cycles() == pytest.approx(41_000, rel=0.01)
    assert default.nanoseconds(default.reload_fault_cycles()) == pytest.approx(13_600, rel=0.01)


def test_reload_fault_takes_more_cycles_when_more_cpus_must_be_interrupted() -> None:
    default = cost.profile("default")
    assert default.reload_fault_cycles(cpus=20) - default.reload_fault_cycles(cpus=4) == 2_000


def test_cheap_and_dear_reload_faults_enclose_what_was_ever_published() -> None:
    assert cost.profile("cheap").reload_fault_cycles() < 25_000
    assert cost.profile("dear").reload_fault_cycles() > 64_000


def test_build_of_a_measured_page_costs_more_than_its_reload() -> None:
    default = cost.profile("default")
    build = default.cycles("eadd") + cost.EEXTENDS_PER_PAGE * default.cycles("eextend")
    assert build == 96_000 > default.reload_fault_cycles()


@pytest.mark.parametrize("name", cost.PROFILE_NAMES)
def test_every_item_lies_in_its_range_and_names_a_source(name: str) -> None:
    for row in cost.profile(name).as_table():
        assert 0 <= row["low"] <= row["cycles"] <= row["high"], row["item"]
        assert row["source"] and row["per"]
        assert row["provenance"] in ("read", "memory", "derived", "assumed")


def test_figures_nobody_published_are_marked_assumed() -> None:
    table = {row["item"]: row["provenance"] for row in cost.profile("default").as_table()}
    assert [table[item] for item in ("refused_charge", "ecreate", "epa", "emodpr")] == ["assumed"] * 4
    assert table["ewb"] == "memory"


def test_all_profiles_have_the_same_items_and_none_can_be_changed() -> None:
    default = cost.profile("default")
    assert all(list(cost.profile(n).items) == list(default.items) for n in cost.PROFILE_NAMES)
    with pytest.raises(TypeError):
        default.items["ewb"] = default.items["eldu"]  # type: ignore[index]


def test_cycles_vector_follows_the_order_asked_for() -> None:
    vector = cost.profile("default").cycles_vector(["ewb", "eblock", "eldu"])
    assert vector.tolist() == [12_000.0, 800.0, 12_000.0]


def test_override_changes_one_item_and_shows_in_the_name() -> None:
    base = cost.profile("default")
    mine = cost.override(base, {"ewb": 15_000, "cpu_hz": 2.4e9}, where="s.toml", key="costs")
    assert mine.name == "default, ewb 15000, cpu_hz 2.4e+09"
    assert mine.cycles("ewb") == 15_000 and base.cycles("ewb") == 12_000
    assert mine.items["ewb"].provenance == "override" and mine.items["ewb"].source == "s.toml"
    assert mine.nanoseconds(2_400) == pytest.approx(1_000)
    assert mine.items["eldu"] == base.items["eldu"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ewbb": 1}, 's.toml, costs.ewbb: no such cost; did you mean "ewb"?'),
        ({"ewb": "many"}, "s.toml, costs.ewb: 'many' is not a number of CPU cycles"),
        ({"ewb": True}, "s.toml, costs.ewb: True is not a number of CPU cycles"),
        ({"ewb": float("nan")}, "s.toml, costs.ewb: nan is not a number of CPU cycles"),
        ({"ewb": -1}, "s.toml, costs.ewb: -1 is out of range; 0 to 1e+12 CPU cycles"),
        ({"cpu_hz": 0}, "s.toml, costs.cpu_hz: 0 is out of range; 1 to 1e+11 CPU cycles per second"),
    ],
)
def test_wrong_override_names_file_key_and_what_is_allowed(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        cost.override(cost.profile("default"), changes, where="s.toml", key="costs")
    assert str(caught.value) == message


def test_unknown_profile_names_the_nearest() -> None:
    with pytest.raises(InputError) as caught:
        cost.profile("defualt", where="s.toml", key="costs.profile")
    assert str(caught.value) == "s.toml, costs.profile: no cost profile 'defualt'; did you mean \"default\"?"


@given(st.sampled_from(list(cost.profile("default").items)), st.floats(0, 1e12))
def test_override_takes_any_cycles_in_range_exactly(item: str, cycles: float) -> None:
    assert cost.override(cost.profile("cheap"), {item: cycles}).cycles(item) == cycles
