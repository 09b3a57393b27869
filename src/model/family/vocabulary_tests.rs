//! The policies on tokenizers of our own.

use super::*;

fn chars(text: &str) -> Tokenizer {
    let mut chars: Vec<char> = text.chars().collect();
    chars.sort();
    Tokenizer::Char { chars }
}

#[test]
fn padding_is_cut_off_where_the_ids_agree_and_refused_where_they_do_not() {
    let find = |theirs: &Tokenizer, ours: &Tokenizer, mask| {
        Rows::find(Vocabulary::TruncatePadding, Some(theirs), ours, 8, mask)
    };
    let rows = find(&chars("abcde"), &chars("abc"), 7).unwrap();
    assert_eq!((rows.of.clone(), rows.vocab(), rows.missing()), (vec![Some(0), Some(1), Some(2)], 4, vec![]));
    // The data's tokenizer may be the longer one: what is behind has no row.
    let rows = find(&chars("ab"), &chars("abc"), 7).unwrap();
    assert_eq!((rows.of.clone(), rows.missing()), (vec![Some(0), Some(1), None], vec![2]));
    // A mask among the shared ids is no token.
    assert_eq!(find(&chars("abcd"), &chars("abcd"), 2).unwrap().missing(), [2]);
    let error = find(&chars("abc"), &chars("abd"), 7).unwrap_err().to_string();
    assert!(error.contains("id 2") && error.contains("\"c\"") && error.contains("shared_tokens"), "{error}");
    // Without a tokenizer, ids are all there is.
    let ids = |vocab, mask| Rows::find(Vocabulary::TruncatePadding, None, &chars("abc"), vocab, mask);
    assert_eq!(ids(8, 7).unwrap().of.len(), 3);
    assert!(ids(8, 1).is_err() && ids(2, 1).is_err());
}

#[test]
fn shared_tokens_are_found_by_their_text_in_tokenizers_of_other_kinds() {
    let find = |theirs: &Tokenizer, ours: &Tokenizer, vocab, mask| {
        Rows::find(Vocabulary::SharedTokens, Some(theirs), ours, vocab, mask)
    };
    // Bytes know every character of one byte.
    let rows = find(&Tokenizer::Bytes, &chars("a bä"), 300, 299).unwrap();
    assert_eq!(rows.of, [Some(32), Some(97), Some(98), None]);
    assert!(rows.summary(300).starts_with("3 of the data's 4 tokens are shared; 296 of"), "{}", rows.summary(300));
    let counts = |ä| vec![5, 5, 5, ä];
    rows.check(&counts(0), |_| String::new()).unwrap();
    let error = rows.check(&counts(5), |_| "ä".into()).unwrap_err().to_string();
    assert!(error.contains("1 of the 4 tokens") && error.contains("25.000 %") && error.contains("\"ä\""), "{error}");
    assert!(find(&chars("xyz"), &chars("abc"), 9, 8).is_err());
}

#[test]
fn rows_go_into_the_study_and_back_to_their_places() {
    let rows = Rows { of: vec![Some(3), None, Some(0)], mask: 4 };
    let tensor = |shape: &[usize], data: &[f32]| HostTensor { shape: shape.to_vec(), data: data.to_vec() };
    let whole: Named = [
        ("embed".to_string(), tensor(&[5, 2], &[0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5])),
        ("head_bias".to_string(), tensor(&[5], &[10.0, 11.0, 12.0, 13.0, 14.0])),
        ("norm.weight".to_string(), tensor(&[2], &[7.0, 8.0])),
    ]
    .into();
    let own = rows.take(whole.clone());
    assert_eq!(own["embed"], tensor(&[4, 2], &[3.0, 3.5, 0.0, 0.0, 0.0, 0.5, 4.0, 4.5]));
    assert_eq!(own["head_bias"].data, [13.0, 0.0, 10.0, 14.0]);
    assert_eq!(rows.put(own.clone(), &whole), whole);
    let mut trained = own;
    trained.get_mut("embed").unwrap().data.iter_mut().for_each(|v| *v += 100.0);
    trained.get_mut("norm.weight").unwrap().data[0] = 9.0;
    let back = rows.put(trained, &whole);
    assert_eq!(back["embed"].data, [100.0, 100.5, 1.0, 1.5, 2.0, 2.5, 103.0, 103.5, 104.0, 104.5]);
    assert_eq!(back["norm.weight"].data, [9.0, 8.0]);
}
