use super::*;
use std::collections::HashSet;

fn file(lines: &str) -> (tempfile::TempDir, PairsConfig) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("pairs.txt"), lines).unwrap();
    let source = Source::Files(vec!["pairs.txt".into()]);
    let config = PairsConfig {
        source,
        fields: Vec::new(),
        length_classes: 0,
        length: 16,
        min_count: 1,
        valid_fraction: 0.2,
        unconditional: 0.0,
    };
    (dir, config)
}

/// Restaurants with a food and a place, of 4 to 7 words.
fn restaurants() -> String {
    let mut lines = String::new();
    for (i, name) in ["aromi", "cotto", "the mill", "zizzi", "cocum", "strada"].iter().enumerate() {
        for food in ["French", "Fast food", "Indian"] {
            for area in ["riverside", "city centre"] {
                let tail = ["", " here", " here now", " right here now"][i % 4];
                lines +=
                    &format!("name : {name} | food : {food} | area : {area}||{name} serves {food} in {area}{tail} \n");
            }
        }
    }
    lines
}

fn prepared(config: &PairsConfig, dir: &tempfile::TempDir) -> Pairs {
    Pairs::prepare(config, dir.path()).unwrap()
}

#[test]
fn a_sequence_is_a_condition_a_sentence_with_its_end_and_padding() {
    let (dir, config) = file(&restaurants());
    let pairs = prepared(&config, &dir);
    // The longest value has two words.
    assert_eq!((pairs.width(), pairs.length()), (3, 16));
    let asks =
        |text: &str| (0..pairs.values().len()).find(|v| pairs.shown(Ask { value: *v, class: None }) == text).unwrap();
    let ask = Ask { value: asks("food : fast food"), class: None };
    assert_eq!(pairs.decode(&pairs.condition(Some(ask))), "food: fast food");
    let (tokens, asked) = pairs.valid(3);
    assert_eq!(tokens.len(), 16);
    assert_eq!(tokens[..3], pairs.condition(Some(asked)));
    let sentence = pairs.sentence(&tokens);
    assert_eq!((tokens[3 + sentence.len()], tokens[15]), (END, PAD));
    assert!(pairs.tells(asked, sentence) && pairs.decode(sentence).contains("serves"));
    assert_eq!(pairs.sequence(Some(asked), sentence), tokens);
    assert_eq!(pairs.condition(None), [PAD; 3]);
}

#[test]
fn every_real_sentence_tells_what_its_condition_asks_for_and_another_value_is_not_told() {
    let (dir, config) = file(&restaurants());
    let pairs = prepared(&config, &dir);
    let tokens = pairs.batch(1, 0, 200);
    assert_eq!(tokens, pairs.batch(1, 0, 200));
    assert_ne!(tokens, pairs.batch(1, 1, 200));
    for row in tokens.chunks(16) {
        let value = (0..pairs.values().len())
            .find(|v| pairs.condition(Some(Ask { value: *v, class: None })) == row[..3])
            .expect("each row asks for something");
        assert!(pairs.tells(Ask { value, class: None }, pairs.sentence(row)));
        let field = pairs.values()[value].field;
        let others = (0..pairs.values().len()).filter(|v| *v != value && pairs.values()[*v].field == field);
        assert!(others.map(|v| Ask { value: v, class: None }).all(|other| !pairs.tells(other, pairs.sentence(row))));
    }
}

#[test]
fn no_meaning_is_in_two_splits_and_which_one_it_is_in_does_not_depend_on_the_others() {
    let raw = source::read(&Source::Story(StoryConfig::default()), Path::new(".")).unwrap();
    let all = source::split(raw.clone(), 0.1);
    let meanings: Vec<HashSet<&String>> = all.iter().map(|s| s.iter().map(|r| &r.meaning).collect()).collect();
    assert!(meanings[0].is_disjoint(&meanings[1]) && meanings[0].is_disjoint(&meanings[2]));
    assert!(meanings[1].is_disjoint(&meanings[2]) && meanings.iter().all(|m| m.len() > 5));
    let half = source::split(raw[..10_000].to_vec(), 0.1);
    assert!(half[1].iter().all(|r| meanings[1].contains(&r.meaning)));
    let share = all[1].len() as f64 / 20_000.0;
    assert!(share > 0.03 && share < 0.25, "{share}");
}

#[test]
fn rare_words_are_unknown_and_sentences_that_are_too_long_are_left_out() {
    let (dir, mut config) = file(&format!("{}name : cotto||cotto serves gruel today \n", restaurants().repeat(3)));
    config.min_count = 3;
    let pairs = prepared(&config, &dir);
    assert!(!pairs.words().contains(&"gruel".to_string()) && pairs.words().contains(&"serves".to_string()));
    let all = pairs.sizes().iter().sum::<usize>();
    config.length = 10;
    let shorter = prepared(&config, &dir);
    assert!(shorter.sizes().iter().sum::<usize>() < all, "{:?}", shorter.sizes());
}

#[test]
fn length_classes_have_about_equally_many_sentences_and_a_condition_asks_for_one() {
    let (dir, mut config) = file(&restaurants());
    config.length_classes = 2;
    let pairs = prepared(&config, &dir);
    assert_eq!(pairs.width(), 4);
    let counts = pairs.batch(2, 0, 400).chunks(16).fold([0, 0], |mut counts, row| {
        let class = pairs.class(pairs.sentence(row).len()).unwrap();
        assert_eq!(pairs.decode(&row[3..4]), format!("length:{}", class + 1));
        counts[class] += 1;
        counts
    });
    assert!(counts.iter().all(|c| *c > 100), "{counts:?}");
    config.length_classes = 40;
    let e = Pairs::prepare(&config, dir.path()).unwrap_err().to_string();
    assert!(e.contains("length_classes"), "{e}");
}

#[test]
fn a_story_tells_its_attributes_at_their_places_and_nowhere_else() {
    let config = PairsConfig {
        source: Source::Story(StoryConfig::default()),
        fields: Vec::new(),
        length_classes: 0,
        length: 36,
        min_count: 1,
        valid_fraction: 0.05,
        unconditional: 0.5,
    };
    let pairs = Pairs::prepare(&config, Path::new(".")).unwrap();
    assert_eq!(pairs.fields(), ["event", "name", "place", "thing"]);
    let text = "mia has 3 apples in the park . then mia gives 1 apples to tom . now mia has 2 apples in total . \
                mia is proud and likes the park .";
    let ids: Vec<u32> = text.split(' ').map(|w| pairs.words().iter().position(|x| x == w).unwrap() as u32).collect();
    let told: Vec<String> = (0..pairs.values().len())
        .map(|value| Ask { value, class: None })
        .filter(|ask| pairs.tells(*ask, &ids))
        .map(|ask| pairs.shown(ask))
        .collect();
    // Tom is in the story, but it is not about him.
    assert_eq!(told, ["event : gives", "name : mia", "place : park", "thing : apples"]);
    // About half of the conditions ask for nothing.
    let none = pairs.batch(1, 0, 400).chunks(36).filter(|row| row[..2] == [PAD; 2]).count();
    assert!((140..260).contains(&none), "{none}");
}

#[test]
fn conditions_of_an_evaluation_are_a_function_of_seed_and_number() {
    let (dir, config) = file(&restaurants());
    let pairs = prepared(&config, &dir);
    let all: Vec<Ask> = (0..50).map(|i| pairs.asked(4, i).0).collect();
    assert_eq!(all[7], pairs.asked(4, 7).0);
    assert!((0..50).all(|i| pairs.tells(pairs.asked(4, i).0, pairs.asked(4, i).1)));
    assert!(all.iter().any(|a| a.value != all[0].value));
}

#[test]
fn a_bad_line_and_a_bad_field_are_refused_with_their_place() {
    for (line, why) in [
        ("name : aromi", "no `||`"),
        ("name aromi||Aromi is here", "has no `:`"),
        ("name : ||Aromi is here", "no field or no value"),
        ("name : aromi|| ", "the sentence is empty"),
    ] {
        let (dir, config) = file(&format!("name : zizzi||zizzi is here\n{line}\n"));
        let e = Pairs::prepare(&config, dir.path()).unwrap_err().to_string();
        assert!(e.contains("line 2") && e.contains(why), "{e}");
    }
    let (dir, mut config) = file(&restaurants());
    config.fields = vec!["foot".into()];
    let e = Pairs::prepare(&config, dir.path()).unwrap_err().to_string();
    assert!(e.contains("`foot`") && e.contains("did you mean `food`"), "{e}");
    config.fields = Vec::new();
    config.length = 4;
    assert!(Pairs::prepare(&config, dir.path()).unwrap_err().to_string().contains("has no record"));
    config.valid_fraction = 0.5;
    assert!(config.validate().unwrap_err().to_string().contains("valid_fraction"));
}
