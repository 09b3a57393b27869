//! Tests of the corpus: splits, the cache and its damage, and batches without repeats.

use super::*;
use crate::error::Kind;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn config(length: usize) -> TextConfig {
    TextConfig {
        path: "t.txt".into(),
        column: None,
        separator: None,
        documents: None,
        valid_fraction: None,
        valid_path: None,
        tokenizer: TokenizerConfig::Bytes,
        length,
    }
}

fn folder(text: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("t.txt"), text).unwrap();
    dir
}

fn prepare(dir: &Path, config: &TextConfig) -> Result<Corpus> {
    Corpus::prepare(config, dir, dir.join("cache").as_path()).map(|(corpus, _)| corpus)
}

fn counting(tokens: usize) -> Corpus {
    let of = |ids: &mut dyn Iterator<Item = u32>| {
        let mut all = Tokens::new(tokens);
        all.extend(ids);
        all
    };
    let (train, valid) = (of(&mut (0..tokens as u32)), of(&mut std::iter::repeat_n(0, 10)));
    Corpus { train, valid, vocab: tokens, sha256: String::new(), documents: None }
}

#[test]
fn the_end_of_the_text_is_kept_for_validation_from_a_line_start() {
    let text = "one line of text\n".repeat(100);
    let dir = folder(text.as_bytes());
    let corpus = prepare(dir.path(), &config(8)).unwrap();
    assert_eq!(corpus.train.len() + corpus.valid.len(), text.len());
    assert!(corpus.train.len().is_multiple_of(17) && (50..90).contains(&corpus.valid.len()), "{}", corpus.valid.len());
    assert_eq!(corpus.valid_windows(8), corpus.valid.len() / 8);
    assert!(corpus.valid.range(8..16).eq(corpus.valid_window(1, 8)));
}

#[test]
fn the_cut_between_the_splits_never_falls_inside_a_character() {
    for n in 20..60 {
        let text = "日".repeat(n);
        let config = TextConfig { valid_fraction: Some(0.2), tokenizer: TokenizerConfig::Char, ..config(2) };
        assert_eq!(prepare(folder(text.as_bytes()).path(), &config).unwrap().vocab, 1);
    }
}

#[test]
fn any_bytes_come_back_through_the_bytes_tokenizer() {
    let all: Vec<u8> = (0..=255).cycle().take(3000).collect();
    let tricky = ["\u{feff}a\r\nb\0𝄞\n".repeat(40).into_bytes(), vec![b'x'; 900], vec![0xff; 900], all];
    for text in tricky {
        let corpus = prepare(folder(&text).path(), &config(4)).unwrap();
        let back: Vec<u8> = corpus.train.iter().chain(corpus.valid.iter()).map(|id| id as u8).collect();
        assert_eq!(back, text);
    }
}

#[test]
fn a_text_that_cannot_be_used_is_refused_with_the_reason() {
    let char = || TextConfig { tokenizer: TokenizerConfig::Char, ..config(4) };
    let late = [&b"ab\n".repeat(99)[..], "é".as_bytes()].concat();
    let cases: [(&[u8], TextConfig, Kind, &str); 8] = [
        (b"", config(4), Kind::Input, "the corpus is empty"),
        (b"x", config(4), Kind::Usage, "`data.text.length = 4` is more than the training text has"),
        (&[b'x'; 40], config(4), Kind::Usage, "`data.text.length = 4` is more than the validation text has"),
        (&[b'x'; 40], config(0), Kind::Usage, "`data.text.length` is 0"),
        (b"ab\xff", char(), Kind::Input, "t.txt: the text is not UTF-8 at byte 2 (line 1, column 3)"),
        (&late, char(), Kind::Input, "t.txt: character 'é' at byte 297 (line 100, column 1)"),
        (b"x", TextConfig { valid_fraction: Some(1.0), ..config(4) }, Kind::Usage, "`valid_fraction` is 1"),
        (b"x", TextConfig { valid_fraction: Some(f64::NAN), ..config(4) }, Kind::Usage, "`valid_fraction` is NaN"),
    ];
    for (text, config, kind, words) in cases {
        let e = prepare(folder(text).path(), &config).unwrap_err();
        assert!(e.kind == kind && e.message.contains(words), "`{words}` is not in: {e}");
    }
}

#[test]
fn a_second_text_is_for_validation_and_may_not_be_the_first() {
    let dir = folder(&[b'a'; 100]);
    std::fs::write(dir.path().join("v.txt"), [b'b'; 50]).unwrap();
    let with = |path: &str| TextConfig { valid_path: Some(path.into()), ..config(4) };
    let corpus = prepare(dir.path(), &with("v.txt")).unwrap();
    assert_eq!((corpus.train.len(), corpus.valid.len()), (100, 50));
    assert!(prepare(dir.path(), &with("t.txt")).unwrap_err().message.contains("the same text"));
    let both = TextConfig { valid_fraction: Some(0.1), ..with("v.txt") };
    let e = prepare(dir.path(), &both).unwrap_err().message;
    assert!(e.contains("`valid_path`") && e.contains("`valid_fraction`"), "{e}");
}

#[test]
fn the_cache_gives_the_same_corpus_and_is_made_anew_for_another_text() {
    let dir = folder(&b"hello world\n".repeat(50));
    let first = prepare(dir.path(), &config(8)).unwrap();
    let cache = dir.path().join("cache/train.tok");
    let bytes = std::fs::read(&cache).unwrap();
    assert!(bytes.starts_with(b"FEWSTOK1"));
    assert_eq!(prepare(dir.path(), &config(8)).unwrap(), first);
    std::fs::write(dir.path().join("t.txt"), b"other words\n".repeat(50)).unwrap();
    let other = prepare(dir.path(), &config(8)).unwrap();
    assert_ne!(other.sha256, first.sha256);
    assert_ne!(std::fs::read(&cache).unwrap(), bytes);
}

#[test]
fn the_first_window_of_an_epoch_is_uniform_over_the_text() {
    let corpus = counting(2 * 16 + 1);
    let mut counts = BTreeMap::new();
    for seed in 0..8000 {
        *counts.entry(corpus.start(seed, 0, 1, 0, 2)).or_insert(0.0) += 1.0f64;
    }
    // 16 windows of 2 tokens at offset 0 or 1: 32 starts, each with probability 1/32.
    assert_eq!(counts.len(), 32);
    let chi: f64 = counts.values().map(|c| (c - 250.0).powi(2) / 250.0).sum();
    // 31 degrees of freedom: 61.1 has probability 1e-3, and the seeds are fixed.
    assert!(chi < 61.1, "chi-square {chi}");
}

#[test]
fn every_order_of_four_windows_is_equally_likely() {
    let mut counts = BTreeMap::new();
    for epoch in 0..12_000u64 {
        let rng = || StepRng::new(3).at(epoch, Stream::Batch);
        let order = [0, 1, 2, 3].map(|slot| permute(slot, 4, &mut rng()));
        *counts.entry(order).or_insert(0.0) += 1.0f64;
    }
    assert_eq!(counts.len(), 24);
    let chi: f64 = counts.values().map(|c| (c - 500.0).powi(2) / 500.0).sum();
    assert!(chi < 49.7, "chi-square {chi} of 23 degrees of freedom");
}

#[test]
fn neighbouring_draws_of_many_windows_are_independent() {
    // Both places of 1000 in tenths: 100 cells.
    let mut counts = BTreeMap::new();
    for epoch in 0..10_000u64 {
        let rng = || StepRng::new(4).at(epoch, Stream::Batch);
        let tenths = [0, 1].map(|slot| permute(slot, 1000, &mut rng()) / 100);
        *counts.entry(tenths).or_insert(0.0) += 1.0f64;
    }
    let chi: f64 = counts.values().map(|c| (c - 100.0).powi(2) / 100.0).sum();
    assert!(counts.len() == 100 && chi < 148.3, "chi-square {chi} of 99 degrees of freedom");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn an_epoch_has_every_window_once_and_no_token_twice(
        seed in any::<u64>(), epoch in 0u64..1000, tokens in 1usize..400, length in 1usize..20,
    ) {
        prop_assume!(tokens >= length);
        let corpus = counting(tokens);
        let windows = corpus.train_windows(length) as u64;
        let epoch: Vec<u32> = (0..windows).flat_map(|i| corpus.batch(seed, epoch * windows + i, 1, length)).collect();
        prop_assert_eq!(epoch.len(), epoch.iter().collect::<BTreeSet<_>>().len());
        prop_assert!(tokens - epoch.len() < 2 * length);
    }

    #[test]
    fn a_batch_is_a_pure_function_of_seed_and_step(seed in any::<u64>(), step in any::<u64>(), batch in 1usize..9) {
        let corpus = counting(300);
        let one = corpus.batch(seed, step, batch, 7);
        prop_assert_eq!(one.len(), batch * 7);
        corpus.batch(seed, step.wrapping_add(1), batch, 7);
        prop_assert_eq!(corpus.batch(seed, step, batch, 7), one);
    }

    #[test]
    fn the_batch_size_changes_how_draws_are_grouped_and_not_their_order(seed in any::<u64>(), step in 0u64..999) {
        let corpus = counting(300);
        let rows: Vec<u32> = (0..4).flat_map(|i| corpus.batch(seed, step * 4 + i, 1, 7)).collect();
        prop_assert_eq!(corpus.batch(seed, step, 4, 7), rows);
    }

    #[test]
    fn a_permutation_is_one_to_one(n in 1u64..700, seed in any::<u64>()) {
        let rng = || StepRng::new(seed).at(0, Stream::Batch);
        prop_assert_eq!((0..n).map(|i| permute(i, n, &mut rng())).collect::<BTreeSet<_>>(), (0..n).collect());
    }
}

#[test]
fn rows_become_the_tokens_of_each_with_a_separator_and_the_last_rows_are_for_validation() {
    let dir = tempfile::tempdir().unwrap();
    let texts: Vec<String> = (0..100).map(|i| format!("row {i} é")).collect();
    let lines: String = texts.iter().map(|t| format!("{{\"id\": 1, \"body\": {t:?}}}\n")).collect();
    std::fs::write(dir.path().join("t.jsonl"), lines).unwrap();
    std::fs::write(dir.path().join("v.txt"), "some other text of its own").unwrap();
    let rows = TextConfig { path: "t.jsonl".into(), column: Some("body".into()), ..config(8) };
    let bytes = |tokens: &Tokens| String::from_utf8(tokens.iter().map(|t| t as u8).collect()).unwrap();
    let corpus = prepare(dir.path(), &rows).unwrap();
    let (train, valid) = (bytes(&corpus.train), bytes(&corpus.valid));
    assert_eq!(train.clone() + &valid, texts.join("\n") + "\n");
    assert!(valid.starts_with("row 9") && (4..=5).contains(&valid.lines().count()), "{valid}");
    // Again from the cache, which another separator, column or split does not use.
    assert_eq!(prepare(dir.path(), &rows).unwrap(), corpus);
    let other = TextConfig { separator: Some("||".into()), valid_path: Some("v.txt".into()), ..rows.clone() };
    let other = prepare(dir.path(), &other).unwrap();
    assert_eq!(bytes(&other.train), texts.join("||") + "||");
    assert_eq!(bytes(&other.valid), "some other text of its own||");
    assert_eq!(prepare(dir.path(), &rows).unwrap(), corpus);
    // A vocabulary of characters has those of the training rows and of the separator.
    let char = TextConfig { tokenizer: TokenizerConfig::Char, ..rows.clone() };
    assert_eq!(prepare(dir.path(), &char).unwrap().vocab, "row 0123456789 é\n".chars().collect::<BTreeSet<_>>().len());
    for (bad, want) in [
        (TextConfig { column: Some("text".into()), ..rows.clone() }, "line 1: there is no `text`"),
        (TextConfig { path: "v.txt".into(), ..rows.clone() }, "`column` and `separator` are for files of rows"),
        (TextConfig { valid_path: Some("t.jsonl".into()), ..rows.clone() }, "the same rows"),
    ] {
        let error = prepare(dir.path(), &bad).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
    std::fs::write(dir.path().join("t.jsonl"), "{\"body\": \"only one row of text\"}").unwrap();
    assert!(prepare(dir.path(), &rows).unwrap_err().to_string().contains("has one row"));
}

const PARTED: &str = "<|endoftext|>";

/// A text of these documents, in which the n-th has a sentence n times.
fn stories(n: usize) -> String {
    let story = |i: usize| format!("story {i} {}.\n", "tells of a small red fox and a lake ".repeat(1 + i % 7));
    (0..n).map(story).collect::<Vec<_>>().join(&format!("{PARTED}\n"))
}

fn parted(tokenizer: TokenizerConfig, length: usize) -> TextConfig {
    TextConfig { documents: Some(DocumentsConfig::Line(PARTED.into())), tokenizer, ..config(length) }
}

#[test]
fn no_window_of_documents_holds_two_of_them_whatever_the_tokenizer() {
    let dir = folder(stories(60).as_bytes());
    for tokenizer in [TokenizerConfig::Bytes, TokenizerConfig::Char, TokenizerConfig::Train { bpe: 280 }] {
        let config = parted(tokenizer, 64);
        let (corpus, tokenizer) = Corpus::prepare(&config, dir.path(), None).unwrap();
        let documents = corpus.documents.as_ref().unwrap();
        assert_eq!((documents.train.documents(), documents.valid.documents()), (56, 4));
        let text = |window: &[u32]| tokenizer.decode(documents::told(window, documents.end));
        let train = corpus.batch(1, 0, 200, 64);
        let valid = (0..corpus.valid_windows(64)).map(|i| corpus.valid_window(i, 64));
        for window in train.chunks(64).map(<[u32]>::to_vec).chain(valid) {
            let told = text(&window);
            assert!(told.matches("story").count() <= 1 && !told.contains(PARTED) && !told.ends_with('\n'), "{told:?}");
            assert!(window.len() == 64 && documents::told(&window, documents.end).len() > 4, "{told:?}");
            // What is behind the end is the end.
            assert!(window.iter().skip_while(|id| **id != documents.end).all(|id| *id == documents.end));
        }
    }
}

#[test]
fn windows_of_documents_start_with_equal_chance_wherever_they_can() {
    let dir = folder(format!("ab\n{PARTED}\nabcdefgh\n{PARTED}\nxyz").as_bytes());
    let config = TextConfig { valid_path: Some("v.txt".into()), ..parted(TokenizerConfig::Bytes, 4) };
    std::fs::write(dir.path().join("v.txt"), "one document without a separator").unwrap();
    let corpus = prepare(dir.path(), &config).unwrap();
    let mut counts = BTreeMap::new();
    for seed in 0..8000 {
        *counts.entry(corpus.batch(seed, 0, 1, 4)).or_insert(0.0) += 1.0f64;
    }
    // One start of `ab`, six of the second document with its end, one of `xyz`.
    assert_eq!(counts.len(), 8);
    let chi: f64 = counts.values().map(|c| (c - 1000.0).powi(2) / 1000.0).sum();
    // 7 degrees of freedom: 24.3 has probability 1e-3, and the seeds are fixed.
    assert!(chi < 24.3, "chi-square {chi}");
    // An epoch has each start once.
    let epoch: BTreeSet<Vec<u32>> = (0..8).map(|step| corpus.batch(5, step, 1, 4)).collect();
    assert_eq!(epoch.len(), 8);
    assert_eq!(corpus.documents.unwrap().valid.documents(), 1);
}

#[test]
fn the_split_of_documents_is_between_two_and_both_splits_have_one() {
    let dir = folder(format!("first\n{PARTED}\nsecond, which is a great deal longer than the first\n").as_bytes());
    for fraction in [0.001, 0.5, 0.999] {
        let config = TextConfig { valid_fraction: Some(fraction), ..parted(TokenizerConfig::Bytes, 4) };
        let documents = prepare(dir.path(), &config).unwrap().documents.unwrap();
        assert_eq!((documents.train.documents(), documents.valid.documents()), (1, 1));
    }
}

#[test]
fn a_text_that_is_no_documents_is_refused_with_the_separator_and_the_place() {
    let parted = |tokenizer| parted(tokenizer, 4);
    let one = format!("only one\n{PARTED}\n");
    let inside = format!("first\n{PARTED}\nx {PARTED} y\n{PARTED}\nz");
    let control = format!("first\n{PARTED}\nx\u{3}\n{PARTED}\nz");
    let cases: [(&str, TextConfig, Kind, &str); 6] = [
        (
            "no such line\n",
            parted(TokenizerConfig::Bytes),
            Kind::Input,
            "t.txt: no line is the separator `<|endoftext|>`",
        ),
        (&one, parted(TokenizerConfig::Bytes), Kind::Usage, "the validation text has no document"),
        (&inside, parted(TokenizerConfig::Train { bpe: 257 }), Kind::Input, "at byte 20 (line 3, column 1)"),
        (&control, parted(TokenizerConfig::Bytes), Kind::Input, "the end token \"\\u{3}\" is part of the document"),
        (&control, parted(TokenizerConfig::Char), Kind::Input, "the end token \"\\u{3}\" is part of the document"),
        (&one, TextConfig { documents: Some(DocumentsConfig::Rows), ..config(4) }, Kind::Usage, "is for files of rows"),
    ];
    for (text, config, kind, words) in cases {
        let e = prepare(folder(text.as_bytes()).path(), &config).unwrap_err();
        assert!(e.kind == kind && e.message.contains(words), "`{words}` is not in: {e}");
    }
}

#[test]
fn several_files_are_one_text_and_each_is_part_of_its_hash() {
    let dir = folder(&b"the first file\n".repeat(20));
    std::fs::write(dir.path().join("u.txt"), b"and a second\n".repeat(20)).unwrap();
    let both: Paths =
        toml::from_str::<BTreeMap<String, Paths>>("p = [\"t.txt\", \"u.txt\"]").unwrap().remove("p").unwrap();
    let with = |path: &Paths| TextConfig { path: path.clone(), ..config(8) };
    let one = prepare(dir.path(), &with(&"t.txt".into())).unwrap();
    let two = prepare(dir.path(), &with(&both)).unwrap();
    assert_eq!((one.train.len() + one.valid.len(), two.train.len() + two.valid.len()), (300, 560));
    std::fs::write(dir.path().join("u.txt"), b"and a 2nd..\n".repeat(20)).unwrap();
    assert_ne!(prepare(dir.path(), &with(&both)).unwrap().sha256, two.sha256);
    // A document ends with its file.
    let documents = TextConfig { path: both, ..parted(TokenizerConfig::Bytes, 4) };
    std::fs::write(dir.path().join("t.txt"), format!("a b c d\n{PARTED}\ne f g h")).unwrap();
    std::fs::write(dir.path().join("u.txt"), "i j k l").unwrap();
    let corpus = prepare(dir.path(), &documents).unwrap().documents.unwrap();
    assert_eq!(corpus.train.documents() + corpus.valid.documents(), 3);
}

#[test]
fn a_tokenizer_is_trained_on_the_training_split_alone_and_kept_with_its_tokens() {
    let text = stories(60);
    let dir = folder(text.as_bytes());
    let config = parted(TokenizerConfig::Train { bpe: 280 }, 16);
    let first = prepare(dir.path(), &config).unwrap();
    let kept = std::fs::read(dir.path().join("cache/bpe.json")).unwrap();
    assert_eq!(prepare(dir.path(), &config).unwrap(), first);
    // Another validation text does not change the tokenizer.
    let end = text.rfind(PARTED).unwrap();
    std::fs::write(dir.path().join("t.txt"), text[..end].to_string() + &text[end..].replace("fox", "owl")).unwrap();
    let other = prepare(dir.path(), &config).unwrap();
    assert_eq!((&other.train, std::fs::read(dir.path().join("cache/bpe.json")).unwrap()), (&first.train, kept.clone()));
    assert_ne!(other.sha256, first.sha256);
    std::fs::write(dir.path().join("t.txt"), text.replacen("fox", "owl", 9)).unwrap();
    prepare(dir.path(), &config).unwrap();
    assert_ne!(std::fs::read(dir.path().join("cache/bpe.json")).unwrap(), kept);
    // Tokens of documents are not those of a text that is one, although their words are the same.
    let whole = TextConfig { documents: None, ..config };
    assert!(prepare(dir.path(), &whole).unwrap().documents.is_none());
}

#[test]
fn rows_are_documents_where_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let lines: String = (0..40).map(|i| format!("{{\"text\": \"row {i} is a text of its own\"}}\n")).collect();
    for name in ["a.jsonl", "b.jsonl"] {
        std::fs::write(dir.path().join(name), lines.replace("text of", &format!("text of {name} of"))).unwrap();
    }
    let both: Paths = serde_json::from_str("[\"a.jsonl\", \"b.jsonl\"]").unwrap();
    for tokenizer in [TokenizerConfig::Bytes, TokenizerConfig::Char, TokenizerConfig::Train { bpe: 280 }] {
        let documents = Some(DocumentsConfig::Rows);
        let rows = TextConfig { path: both.clone(), documents, tokenizer, ..config(64) };
        let (corpus, tokenizer) = Corpus::prepare(&rows, dir.path(), None).unwrap();
        let documents = corpus.documents.as_ref().unwrap();
        assert_eq!((documents.train.documents(), documents.valid.documents()), (77, 3));
        for window in corpus.batch(1, 3, 100, 64).chunks(64) {
            let told = tokenizer.decode(documents::told(window, documents.end));
            assert!(told.starts_with("row ") && told.ends_with("its own"), "{told}");
        }
    }
    let line = TextConfig { path: both, ..parted(TokenizerConfig::Bytes, 8) };
    assert!(prepare(dir.path(), &line).unwrap_err().hint.unwrap().contains("`data.text.documents = true`"));
}

#[test]
fn a_tokenizer_without_an_end_token_has_no_documents() {
    let dir = folder(stories(20).as_bytes());
    let words = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"a": 0, "<unk>": 1}, "unk_token": "<unk>"}}"#;
    std::fs::write(dir.path().join("words.json"), words).unwrap();
    let config = parted(TokenizerConfig::Json { path: "words.json".into() }, 4);
    let e = prepare(dir.path(), &config).unwrap_err();
    assert!(e.message.contains("the tokenizer has none") && e.causes[0].contains("`<|endoftext|>`"), "{e}");
    std::fs::write(dir.path().join("words.json"), words.replace("\"a\"", "\"</s>\"")).unwrap();
    assert_eq!(prepare(dir.path(), &config).unwrap().documents.unwrap().end, 0);
}
