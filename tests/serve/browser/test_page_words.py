"""What the case page says beside a map: borders, rows, warnings, words."""


def test_a_padded_picture_shows_its_border(visit, origin, case_paths):
    """All that the model sees is in sight, and how much of the map is on nothing is told."""
    found = visit(origin)
    found.open(case_paths[6])
    assert "of this map lies on the added border" in found.page.inner_text("#padding")
    inside = found.page.evaluate(
        """() => {
          const canvas = document.querySelector("#stage .overlay");
          const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          let rows = 0;
          for (let y = 0; y < height; y++) rows += data[4 * (y * width + (width >> 1)) + 3] > 0;
          return [rows, height];
        }"""
    )
    assert inside[0] > 0.75 * inside[1]  # the picture alone would be two thirds of its frame


def test_padding_of_a_map(case):
    """Half of each outer row of a 4 x 4 map lies outside of this picture."""
    shares = case.page.evaluate(
        """async () => {
          const { shareOnPadding, isPadded } = await import("/static/overlay.js");
          const wide = { width: 80, height: 60, frame: [0, -10, 80, 80] };
          const whole = { width: 80, height: 60, frame: [0, 0, 80, 60] };
          const even = new Float32Array(16).fill(1);
          const corner = Float32Array.from(even, (_, i) => (i ? -1 : 2));
          return [
            shareOnPadding(even, wide, 4, 4), shareOnPadding(corner, wide, 4, 4), shareOnPadding(even, whole, 4, 4),
            isPadded(wide), isPadded(whole),
          ];
        }"""
    )
    assert shares == [0.25, 0.5, 0, True, False]


def test_the_row_of_a_word_is_told(case):
    page = case.page
    page.locator(".tokens >> nth=0 >> .token >> nth=3").click()
    assert page.inner_text("#row-told").endswith("what this word attends to.")
    page.locator(".tokens >> nth=1 >> .token >> nth=0").click()
    assert page.inner_text("#row-told").endswith("the attention under which this word was predicted.")


def test_warnings_of_the_method_that_is_shown(case):
    page = case.page
    shown = page.locator("ul.warnings").first.locator("li")
    assert "Most weight lies on text: the image has 12 %" in shown.all_inner_texts()
    assert not any("same for every word" in text for text in shown.all_inner_texts())
    assert page.locator(".folded li").all_text_contents() == ["rollout: this map is the same for every word"]
    page.select_option("#method", "rollout")
    assert "This map is the same for every word" in shown.all_inner_texts()
    assert page.locator(".folded li").all_text_contents() == ["raw: most weight lies on text: the image has 12 %"]


def test_what_numbers_warn_of(case):
    """The picture's specificity counts, not that of the whole row; a bundle's own words are not said again."""
    found = case.page.evaluate(
        """async () => {
          const { sortedWarnings, warningsOf } = await import("/static/facts.js");
          const [map, view] = [[0, 1], { reliance: 1 }];
          const of = (facts) => warningsOf({ facts: { low: 0, high: 1, ...facts }, map, view, attention: false });
          const same = of({ grid_specificity: 0.001, specificity: 0.3 });
          const told = ["raw: this map is the same for every word", "Of all maps: so."];
          return [
            same, of({ grid_specificity: 0.3, specificity: 0.001 }), of({ specificity: 0.001 }).length,
            sortedWarnings(told, ["raw"], "raw", same), sortedWarnings(told, ["raw", "chefer"], "chefer", same),
          ];
        }"""
    )
    same = ["This map is the same for every word of the answer."]
    assert found[:3] == [same, [], 1]
    assert found[3] == {"here": ["This map is the same for every word", "Of all maps: so."], "elsewhere": []}
    assert found[4]["here"] == ["Of all maps: so.", *same] and len(found[4]["elsewhere"]) == 1


def test_pieces_of_a_word_are_joined(case):
    joined = case.page.evaluate(
        """async () => {
          const { phraseOf } = await import("/static/tokens.js");
          const token = (text, word) => ({ text, word, part: "answer" });
          return [
            phraseOf([token("cardio", 1), token("megaly", 1)]), phraseOf([token(" left", 1), token(" lung", 2)]),
            phraseOf([token("left", 1), token("lung", 2), token("?", 2)]), phraseOf([token("肺", 1), token("炎", 2)]),
          ];
        }"""
    )
    assert joined == ["cardiomegaly", "left lung", "left lung?", "肺炎"]
