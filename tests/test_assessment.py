"""The verdict on whole runs: good, poor, excellent, without a score."""

from __future__ import annotations

from assessment_examples import figures, prior, rows, run, violations, windows
from thermoq.assessment import assess


def test_a_good_baseline_against_all_expectations() -> None:
    # Scores of the specification's example.
    given = prior(
        0.7234,
        boundary_scores=[0.45, 0.89, 0.72],
        violations=violations("high", "medium"),
        cosine_similarity=0.7156,
        relative_squared_error=0.0412,
    )
    found = assess(given, run())
    assert found.title == "Smoothness: good"
    assert found.verdict == (
        "The smoothness score of 0.7234 lies in the band good (0.70 to 0.78); 2 of 3 boundaries "
        "exceed the threshold. The activation parameters were modelled from the noise schedule, "
        "not measured. The score says nothing about the quantized weights: their relative squared "
        "error is 0.0412."
    )
    assert rows(found) == {
        "Violations in a good baseline": (
            *("0 to 3, mostly low or medium", "2: 1 high, 1 medium"),
            False,
        ),
        "Boundary scores": ("mostly above 0.60", "2 of 3", True),
        "Cosine similarity": ("at least 0.70", "0.7156", True),
        "Smoothness score": ("0.65 to 0.78", "0.7234", True),
        "Lowest boundary score": ("0.40 to 0.60", "0.4500", True),
        "Highest boundary score": ("0.95 to 1.00", "0.8900 (below)", False),
        "Mean boundary score": ("0.70 to 0.80", "0.6867 (below)", False),
        "Standard deviation of boundary scores": ("0.10 to 0.20", "0.1812", True),
        "Violations in any baseline": ("0 to 5, typically 1 to 3", "2", True),
        "Phase 2 target": ("0.82 or more", "0.7234", False),
        "Phase 3 target": ("0.90 or more", "0.7234", False),
    }
    assert found.causes == []


def test_a_poor_baseline_lists_the_signs_of_one() -> None:
    given = figures(
        0.5,
        boundary_scores=[0.4, 0.45, 0.65],
        violations=violations("high", "high", "medium"),
        cosine_similarity=0.6,
    )
    found = assess(given, run())
    sign = "Sign of a poor baseline: "
    assert rows(found)[sign + "violations"] == (
        *("4 or more, high among them", "3: 2 high, 1 medium"),
        False,
    )
    assert rows(found)[sign + "boundary scores"] == ("several below 0.50", "2 of 3", True)
    assert rows(found)[sign + "cosine similarity"] == ("below 0.70", "0.6000", True)
    assert rows(found)["Smoothness score"] == ("0.65 to 0.78", "0.5000 (below)", False)
    assert len(found.causes) == 3
    assert found.causes[0].startswith("4 time groups are few")
    # The weights first: phases are held against each other on the same codes.
    assert found.next_command == (
        "thermoq quantize --model dream-7b --output out-int2-g4-trellis --bit-width 2 "
        "--num-time-groups 4 --encoding trellis --effort 5"
    )
    assert any("straight to Phase 3: `--phase optimize`" in text for text in found.actions)


def test_an_excellent_baseline() -> None:
    found = assess(figures(0.92, violations=violations("low"), cosine_similarity=0.95), run())
    assert rows(found)["Violations in an excellent baseline"] == (
        *("0 or 1, of low severity", "1: 1 low"),
        True,
    )
    assert rows(found)["Boundary scores"] == ("all above 0.70", "3 of 3", True)
    assert rows(found)["Cosine similarity"] == ("above 0.75", "0.9500", True)
    assert rows(found)["Smoothness score"] == ("0.65 to 0.78", "0.9200 (above)", False)
    assert rows(found)["Phase 3 target"] == ("0.90 or more", "0.9200", True)
    assert found.next_command == "thermoq export out out-dense"
    assert found.actions[-1].startswith("Export the dense weights")
    medium = assess(figures(0.92, violations=violations("medium")), run())
    assert rows(medium)["Violations in an excellent baseline"][2] is False
    assert (
        rows(assess(figures(0.9, cosine_similarity=0.75), run()))["Cosine similarity"][2] is False
    )


def test_no_score() -> None:
    found = assess(figures(None, cosine_similarity=None), run())
    assert (found.band, found.title) == (None, "No smoothness score")
    assert found.characteristics == []
    assert found.next_command == "thermoq inspect dream-7b"
    assert rows(found)["Phase 2 target"] == ("0.82 or more", "no boundary", None)


def test_one_time_group() -> None:
    found = assess(figures(1.0, boundary_scores=[]), run(num_time_groups=1))
    assert (found.band, found.title) == ("excellent", "One time group, so nothing can jump")
    assert "a single time group has no boundary" in found.verdict
    assert [row.name for row in found.characteristics] == ["Cosine similarity"]
    assert [row.met for row in found.phase_targets] == [None, None]
    assert "--num-time-groups 4" in found.next_command
    one_step = run(num_time_groups=1, most_time_groups=1)
    assert assess(figures(1.0, boundary_scores=[]), one_step).next_command.startswith(
        "thermoq export"
    )


def test_phase_2_is_held_against_its_own_target() -> None:
    given = figures(
        0.9312,
        phase="smooth",
        windows=windows(interpolation="linear", has_room=False),
        score_before=0.7234,
        violations=violations("low"),
    )
    found = assess(given, run(phase="smooth"))
    assert found.title == "Smoothness: excellent, Phase 2's target met"
    assert "score of 0.9312 (Phase 1: 0.7234) lies in the band excellent" in found.verdict
    assert rows(found) == {
        "Smoothness score in Phase 2": ("0.82 or more", "0.9312", True),
        "Smoothness score over Phase 1's": ("above 0.7234", "0.9312", True),
        "Violations in Phase 2": ("at most 1", "1", True),
        "Cosine similarity": ("at least 0.70", "0.9000", True),
        "Phase 2 target": ("0.82 or more", "0.9312", True),
        "Phase 3 target": ("0.90 or more", "0.9312", True),
    }
    assert any("It is there for accuracy" in text for text in found.actions)


def test_phase_3_is_held_against_its_own_target() -> None:
    given = figures(
        0.89,
        phase="optimize",
        windows=windows(interpolation="linear", has_room=False, scores={"linear": 0.89}),
        score_before=0.9,
        violations=violations("low"),
    )
    found = assess(given, run(phase="optimize"))
    assert found.title == "Smoothness: excellent, Phase 3's target missed"
    assert "were fitted to what was measured along the trajectory" in found.verdict
    assert rows(found)["Smoothness score in Phase 3"] == ("0.90 or more", "0.8900", False)
    assert rows(found)["Smoothness score over Phase 1's"] == ("above 0.9000", "0.8900", False)
    assert rows(found)["Violations in Phase 3"] == ("0", "1", False)
    assert any("A larger `--coupling`" in text for text in found.actions)


def test_measured_parameters_are_not_called_a_model() -> None:
    found = assess(figures(0.72), run())
    assert "modelled" not in found.verdict
    assert "were measured along the trajectory" in found.verdict
    assert not any("estimate" in text for text in found.actions)
    assert found.then_command is None
    modelled = assess(prior(0.72), run())
    assert "modelled from the noise schedule, not measured" in modelled.verdict
    assert modelled.actions[0].startswith("Calibrate first, and read this score as an estimate")
