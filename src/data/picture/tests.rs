use super::*;
use crate::rng::{StepRng, Stream};

fn tiny() -> Pictures {
    let config =
        PicturesConfig { names: 2, kinds: 1, colours: 2, count: 2, clauses: 2, rows: 2, columns: 4, noise: 1e-3 };
    Pictures::new(&config).unwrap()
}

/// Every caption with the probability that its pieces are drawn so, by listing them.
fn captions(task: &Pictures) -> Vec<(Caption, f64)> {
    let c = &task.config;
    let things: Vec<(usize, usize, usize)> = (1..=c.count)
        .flat_map(|n| (0..c.colours).flat_map(move |colour| (0..c.kinds).map(move |kind| (n, colour, kind))))
        .collect();
    let mut out: Vec<(Caption, f64)> = Vec::new();
    for n in task.numbers() {
        let mut beginnings: Vec<(Vec<Clause>, f64)> = vec![(Vec::new(), 1.0 / task.numbers().count() as f64)];
        for i in 0..n {
            let mut next = Vec::new();
            for (clauses, p) in beginnings {
                for place in (0..4).filter(|place| clauses.iter().all(|c| c.place != *place)) {
                    for (count, colour, kind) in &things {
                        let clause = Clause { count: *count, colour: *colour, kind: *kind, place };
                        let share = p / (4 - i) as f64 / things.len() as f64;
                        next.push((clauses.iter().copied().chain([clause]).collect(), share));
                    }
                }
            }
            beginnings = next;
        }
        for (clauses, p) in beginnings {
            for name in 0..c.names {
                for liked in 0..n {
                    let caption = Caption { name, clauses: clauses.clone(), liked };
                    let share = p / c.names as f64 / n as f64;
                    out.push((caption, share));
                }
            }
        }
    }
    out
}

/// Every choice of `count` of the cells.
fn choices(cells: &[usize], count: usize) -> Vec<Vec<usize>> {
    match (count, cells.split_first()) {
        (0, _) => vec![Vec::new()],
        (_, None) => Vec::new(),
        (_, Some((first, rest))) => {
            let with = choices(rest, count - 1).into_iter().map(|c| [vec![*first], c].concat());
            with.chain(choices(rest, count)).collect()
        }
    }
}

/// Every clean sequence with its probability.
fn sequences(task: &Pictures) -> Vec<(Vec<u32>, f64)> {
    let mut out = Vec::new();
    for (caption, p) in captions(task) {
        let mut pictures = vec![(vec![task.empty(); task.shape().cells()], p)];
        for clause in &caption.clauses {
            let all = choices(&task.shape().quadrant(clause.place), clause.count);
            pictures = pictures
                .iter()
                .flat_map(|known| all.iter().map(move |cells| (known, cells)))
                .map(|((picture, p), cells)| {
                    let mut picture = picture.clone();
                    cells.iter().for_each(|c| picture[*c] = task.thing(clause.colour, clause.kind));
                    (picture, p / all.len() as f64)
                })
                .collect();
        }
        let text = task.write(&caption);
        out.extend(pictures.into_iter().map(|(picture, p)| ([text.clone(), picture].concat(), p)));
    }
    out
}

/// p(visible part) as a direct sum over the list of clean sequences.
fn direct(task: &Pictures, all: &[(Vec<u32>, f64)], visible: &[Option<u32>]) -> f64 {
    let (noise, floor) = (task.config.noise, task.config.noise / task.vocab() as f64);
    let emit = |w: &u32, v: &Option<u32>| match v {
        None => 1.0,
        Some(v) if v == w => 1.0 - noise + floor,
        Some(_) => floor,
    };
    all.iter().map(|(s, p)| p * s.iter().zip(visible).map(|(w, v)| emit(w, v)).product::<f64>()).sum()
}

fn encode(task: &Pictures, text: &str) -> Vec<u32> {
    text.split_whitespace().map(|w| task.id(w)).collect()
}

const GOOD: &str = "mia paints 2 red stars in the northwest , 1 blue disc in the southeast . \
                    mia likes the southeast best . <pad> <pad> <pad> <pad> <pad> <pad> <pad>\n\
                    .. r★ .. .. .. ..\n\
                    r★ .. .. .. .. ..\n\
                    .. .. .. .. .. ..\n\
                    .. .. .. .. .. ..\n\
                    .. .. .. .. b● ..\n\
                    .. .. .. .. .. ..";

#[test]
fn a_caption_is_read_its_picture_agrees_and_both_print_as_lines() {
    let task = Pictures::new(&PicturesConfig::default()).unwrap();
    let tokens = encode(&task, GOOD);
    assert_eq!((tokens.len(), task.shape().length(), task.vocab()), (65, 65, 38));
    let caption = task.caption_of(&tokens).unwrap();
    assert_eq!((caption.clauses[0], caption.liked), (Clause { count: 2, colour: 0, kind: 0, place: 0 }, 1));
    assert_eq!(task.reading(&tokens), Reading { valid: true, clauses: 1.0, agrees: true });
    assert_eq!(task.decode(&tokens), GOOD.replace(" <pad>", ""));
    // names 4, numbers 2, arrangements 12, liked 2, things 27 each, drawings 36 and 9.
    let want = -f64::ln(4.0 * 2.0 * 12.0 * 2.0 * 27.0 * 27.0 * 36.0 * 9.0);
    assert!((task.clean_log_likelihood(&tokens) - want).abs() < 1e-12);
    let masked: Vec<u32> = tokens.iter().map(|t| if *t == task.empty() { task.vocab() as u32 } else { *t }).collect();
    assert!(task.decode(&masked).ends_with("· · · · b● ·\n· · · · · ·"));
}

#[test]
fn a_caption_with_a_fault_is_not_valid() {
    let task = Pictures::new(&PicturesConfig::default()).unwrap();
    for (from, to) in [
        ("mia likes", "tom likes"),
        ("the southeast best", "the northeast best"),
        ("the southeast best", "the stars best"),
        ("1 blue disc in", "1 blue discs in"),
        ("southeast .", "northwest ."),
        ("northwest ,", "northwest ."),
        ("best . <pad>", "best . mia"),
        ("paints 2", "paints in"),
        ("paints", "likes"),
    ] {
        let reading = task.reading(&encode(&task, &GOOD.replacen(from, to, 1)));
        assert_eq!(reading, Reading { valid: false, clauses: 0.0, agrees: false }, "{from} to {to}");
    }
    assert!(!task.reading(&[]).valid && !task.reading(&encode(&task, GOOD)[..40]).valid);
}

#[test]
fn every_sample_parses_agrees_and_has_the_likelihood_of_its_choices() {
    let task = Pictures::new(&PicturesConfig { noise: 1e-12, ..PicturesConfig::default() }).unwrap();
    let mut rng = StepRng::new(1).at(0, Stream::Batch);
    for _ in 0..300 {
        let tokens = task.sample(&mut rng);
        let caption = task.caption_of(&tokens).unwrap();
        assert!(task.reading(&tokens).agrees && task.write(&caption) == tokens[..task.shape().text]);
        let (clean, noisy) = (task.clean_log_likelihood(&tokens), task.log_likelihood(&tokens));
        assert!(clean.is_finite() && (clean - noisy).abs() < 1e-6, "{clean} and {noisy}");
    }
}

#[test]
fn a_moved_removed_added_or_repainted_thing_never_agrees() {
    let task = Pictures::new(&PicturesConfig { noise: 1e-12, ..PicturesConfig::default() }).unwrap();
    let mut rng = StepRng::new(2).at(0, Stream::Batch);
    let text = task.shape().text;
    for _ in 0..300 {
        let tokens = task.clean(&mut rng);
        let holds = |at: usize| tokens[at] != task.empty();
        let full: Vec<usize> = (text..tokens.len()).filter(|at| holds(*at)).collect();
        let from = full[rng.random_range(0..full.len())];
        let quadrant = |at: usize| (0..4).find(|p| task.shape().quadrant(*p).contains(&(at - text))).unwrap();
        let empty: Vec<usize> = (text..tokens.len()).filter(|at| !holds(*at)).collect();
        let to = empty[rng.random_range(0..empty.len())];
        let mut changed = vec![tokens.clone(); 4];
        changed[0][from] = task.empty();
        changed[1][to] = tokens[from];
        let other = (tokens[from] - task.empty()) % 9 + 1;
        changed[2][from] = task.empty() + other;
        let far = *empty.iter().find(|at| quadrant(**at) != quadrant(from)).unwrap();
        changed[3].swap(from, far);
        for (kind, tokens) in changed.iter().enumerate() {
            let reading = task.reading(tokens);
            assert!(reading.valid && !reading.agrees, "change {kind}:\n{}", task.decode(tokens));
            assert!(task.clean_log_likelihood(tokens) == f64::NEG_INFINITY && task.log_likelihood(tokens).is_finite());
        }
        // Where a thing stands within its quadrant is free.
        let mut moved = tokens.clone();
        if let Some(near) = empty.iter().find(|at| quadrant(**at) == quadrant(from)) {
            moved.swap(from, *near);
            assert!(task.reading(&moved).agrees);
            assert!((task.log_likelihood(&moved) - task.log_likelihood(&tokens)).abs() < 1e-9);
        }
    }
}

#[test]
fn clean_likelihoods_sum_to_one_over_all_sequences_and_are_those_of_the_list() {
    let task = tiny();
    let all = sequences(&task);
    let mut seen = std::collections::HashSet::new();
    assert!(all.iter().all(|(s, _)| seen.insert(s.clone())), "a sequence is listed twice");
    let sum: f64 = all.iter().map(|(s, _)| task.clean_log_likelihood(s).exp()).sum();
    assert!((sum - 1.0).abs() < 1e-9, "{sum} over {}", all.len());
    for (s, p) in &all {
        assert!((task.clean_log_likelihood(s) - p.ln()).abs() < 1e-9, "{}", task.decode(s));
    }
}

#[test]
fn likelihoods_of_noisy_sequences_equal_the_direct_sum_over_all_clean_ones() {
    let task = tiny();
    let all = sequences(&task);
    let mut rng = StepRng::new(3).at(0, Stream::Batch);
    for round in 0..60 {
        let mut tokens = task.sample(&mut rng);
        for _ in 0..round % 5 {
            let at = rng.random_range(0..tokens.len());
            tokens[at] = rng.random_range(0..task.vocab() as u32);
        }
        let visible: Vec<Option<u32>> = tokens.iter().copied().map(Some).collect();
        let (got, want) = (task.log_likelihood(&tokens), direct(&task, &all, &visible).ln());
        assert!((got - want).abs() < 1e-9, "{got} for {want}");
    }
    // The fills of a hidden word and a hidden cell sum to the likelihood of what is seen.
    let mut tokens = task.sample(&mut rng);
    let (a, b) = (2, task.shape().text + 1);
    let mut visible: Vec<Option<u32>> = tokens.iter().copied().map(Some).collect();
    (visible[a], visible[b]) = (None, None);
    let mut sum = 0.0;
    for x in 0..task.vocab() as u32 {
        for y in 0..task.vocab() as u32 {
            (tokens[a], tokens[b]) = (x, y);
            sum += task.log_likelihood(&tokens).exp();
        }
    }
    let want = direct(&task, &all, &visible);
    assert!((sum / want - 1.0).abs() < 1e-9, "{sum} for {want}");
}

#[test]
fn samples_are_as_frequent_as_their_likelihood_says() {
    let config =
        PicturesConfig { names: 1, kinds: 1, colours: 1, count: 2, clauses: 1, rows: 2, columns: 4, noise: 1e-9 };
    let task = Pictures::new(&config).unwrap();
    let all = sequences(&task);
    let (n, mut rng) = (20_000, StepRng::new(4).at(0, Stream::Batch));
    let mut counts: HashMap<Vec<u32>, usize> = HashMap::new();
    (0..n).for_each(|_| *counts.entry(task.sample(&mut rng)).or_default() += 1);
    assert_eq!(all.len(), 4 * (2 + 1));
    for (s, p) in &all {
        let share = counts.get(s).copied().unwrap_or(0) as f64 / f64::from(n);
        assert!((share - p).abs() < 5.0 * (p / f64::from(n)).sqrt(), "{share} for {p}: {}", task.decode(s));
    }
}

#[test]
fn a_sequence_of_nothing_but_noise_has_a_finite_likelihood() {
    for noise in [1e-12, 0.5] {
        let config = PicturesConfig { count: 9, rows: 16, columns: 16, clauses: 4, noise, ..PicturesConfig::default() };
        let task = Pictures::new(&config).unwrap();
        let mut rng = StepRng::new(5).at(0, Stream::Batch);
        for token in [task.thing(0, 0), task.empty(), 0] {
            assert!(task.log_likelihood(&vec![token; task.shape().length()]).is_finite());
        }
        let random: Vec<u32> = (0..task.shape().length()).map(|_| rng.random_range(0..task.vocab() as u32)).collect();
        assert!(task.log_likelihood(&random).is_finite());
    }
}

#[test]
fn sizes_out_of_range_name_the_key_and_its_range() {
    let good = PicturesConfig::default;
    for (config, words) in [
        (PicturesConfig { kinds: 5, ..good() }, "`data.pictures.kinds` must be between 1 and 4, but it is 5"),
        (PicturesConfig { rows: 3, ..good() }, "`data.pictures.rows` must be even, but it is 3"),
        (PicturesConfig { rows: 2, columns: 4, ..good() }, "quadrants of 2 cells"),
        (PicturesConfig { noise: f64::NAN, ..good() }, "`data.pictures.noise` must be between 1e-12 and 0.5"),
    ] {
        let e = Pictures::new(&config).unwrap_err().to_string();
        assert!(e.contains(words), "{e}");
    }
}

#[test]
fn a_whole_caption_is_padded_and_its_beginning_is_not() {
    let shape = PicturesConfig::default().shape();
    let caption = GOOD.lines().next().unwrap().replace(" <pad>", "");
    let words = |text: &str| shape.padded(text).split(' ').count();
    assert_eq!((words(&caption), words("mia paints"), words(GOOD)), (29, 2, 65));
    assert_eq!(shape.lines("mia paints"), "mia paints");
}
