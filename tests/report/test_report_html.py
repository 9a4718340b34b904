import re
from html.parser import HTMLParser

from hypothesis import HealthCheck, given, settings
from made_runs import crowd, noisy_neighbour, pod, run, side_by_side
from random_runs import run_sets

from epcgroup.report import chart
from epcgroup.report.html import page
from epcgroup.report.markup import Html, el
from epcgroup.trace import Event, RunSet

VOID = {"meta", "br"}
SVG_EMPTY = {"path", "rect", "circle"}


class Document(HTMLParser):
    """Tags in order, visible text, and whether every element is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID | SVG_EMPTY
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data


def test_page_says_what_happened() -> None:
    text = Document(page(noisy_neighbour())).text
    assert "greedy claims 16 MiB and uses 112 MiB; without limits it slowed web 7.4x" in text
    assert "all pods, limits = claims (v17)" in text
    assert "epcgroup run pods.yaml --epc 128Mi --use greedy=96Mi:zipf --seed 1" in text
    assert "limit of 16 MiB hit" in text
    assert "Eleos, EuroSys'17" in text
    assert "greedy: use of 112 MiB set by --use" in text


def test_page_needs_nothing_from_outside() -> None:
    document = Document(page(crowd()))
    assert not {"link", "img", "iframe", "object", "base"} & set(document.tags)
    assert not [name for name, _ in document.attributes if name in ("src", "href", "srcset")]
    assert not re.search(r"https?:|//[a-z]+\.|@import|fetch\(|url\((?!#)", page(crowd()))


def test_every_pod_is_in_table_and_charts() -> None:
    text = page(crowd())
    for i in range(10):
        assert text.count(f"job-{i:02d}" if i % 3 else f"a-deployment-with-a-long-name-7d9c6-{i:05d}") >= 6


def test_same_run_set_gives_the_same_bytes(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "run.json"
    noisy_neighbour().save(path)
    slower = noisy_neighbour()
    slower.runs[0].wall_seconds = 99.0
    assert page(noisy_neighbour()) == page(slower) == page(RunSet.load(path))


def test_ten_pods_stay_below_300_kb() -> None:
    assert len(page(crowd(pods=10, samples=200)).encode()) < 300_000


def test_hundred_pods_are_folded_into_one_grey_layer() -> None:
    text = page(crowd(pods=100, samples=200))
    assert len(text.encode()) < 1_200_000
    assert "77 other pods" in text
    assert 'class="a kx"' in text


def test_hues_beyond_eight_have_a_texture() -> None:
    text = page(crowd(pods=10, samples=3))
    assert ".k7{--k:var(--c7);fill:var(--c7)}" in text
    assert ".k8{--k:var(--c0);fill:url(#p8)}" in text and 'id="p8"' in text


def test_names_are_never_markup() -> None:
    evil = '</script><script>alert("x")</script>'
    run_set = RunSet(
        evil,
        [
            run("n", "unlimited", "mainline", [pod(evil, claim=64, use=64), pod("`<b>`", claim=1, use=1)]),
            run(
                evil,
                "limited",
                evil,
                [pod(evil, claim=64, use=64, limit=64)],
                events=[Event(1.0, evil, evil)],
            ),
        ],
        {"command": evil, evil: [evil], "costs": {"items": [{"item": evil, "cycles": evil, "source": evil}]}},
        [evil],
    )
    run_set.runs[0].pods[0].outcome = run_set.runs[0].pods[0].workload = evil
    text = page(run_set)
    assert "<script>alert" not in text
    assert Document(text).tags.count("script") == Document(page(noisy_neighbour())).tags.count("script") - 2


def test_limits_that_exceed_epc_are_marked() -> None:
    pods = [pod(n, claim=96, use=96, limit=96, held=60) for n in ("a", "b")]
    text = page(RunSet("t", [run("claims", "limited", "v17", pods)], {}))
    assert "limits add up to 192 MiB" in text and '<small class="over">' in text
    assert '<small class="over">' not in page(noisy_neighbour())


def test_pod_at_its_limit_is_drawn_as_held() -> None:
    assert page(noisy_neighbour()).count('class="held"') == 1


def test_run_without_samples_says_so() -> None:
    text = page(RunSet("t", [run("none", "unlimited", "mainline", [pod("web", claim=1, use=1, samples=0)])], {}))
    assert "No samples: the run ended before the first." in text


def test_elements_escape_what_is_not_markup() -> None:
    assert el("td", "<&", Html("<br>"), data_l='"<', class_=None, hidden=True) == (
        '<td data-l="&quot;&lt;" hidden>&lt;&amp;<br></td>'
    )


def test_stack_draws_running_sums_from_the_top_down() -> None:
    drawn = chart.stack([0, 1000], [("a", "k0", [1, 1]), ("b", "k1", [1, 3])], top=4, height=100)
    assert [re.findall(r' d="([^"]*)"', layer)[0] for layer in drawn] == [
        "M0 50L1000 0V100H0Z",
        "M0 75L1000 75V100H0Z",
    ]


def test_heat_strip_joins_equal_levels() -> None:
    assert chart.heat_strip([250, 500, 750, 1000], [None, 0.5, 0.52, 1.0], 14) == [
        '<rect class="h5" x="250" width="500" height="14"/>',
        '<rect class="h10" x="750" width="250" height="14"/>',
    ]


def test_time_ticks_are_round() -> None:
    assert chart.time_ticks(10.0) == [0, 2, 4, 6, 8, 10]
    assert chart.time_ticks(0.35) == [0, 0.1, 0.2, 0.30000000000000004]
    assert chart.time_ticks(0.0) == [0.0]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(run_sets)
def test_any_run_set_has_a_page(run_set: RunSet) -> None:
    text = page(run_set)
    assert "<script>alert" not in text
    assert "nan" not in re.sub(r"<(title|script|style|pre)\b.*?</\1>", "", "".join(re.findall(r' d="[^"]*"', text)))
    Document(text)


def test_page_has_a_table_of_predicted_beside_measured_only_when_there_is_a_live_run() -> None:
    shown = page(side_by_side())
    assert "<h2>Predicted beside measured</h2>" in shown
    assert '<td data-l="page-ins, simulated">464</td><td data-l="page-ins, live">348</td>' in shown
    assert "all pods, no limits (mainline, live)" in shown
    assert "web alone (mainline, live)" in shown
    assert ">no limits, live</i>" in shown and ">limits, live</i>" in shown
    assert "Predicted beside measured" not in page(noisy_neighbour())
