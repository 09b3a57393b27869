//! What may be shown: text from weights, recipes, results and models, made harmless before a terminal, a page or a plot has
//! it.
//!
//! A terminal obeys control characters, a reader is misled by those that turn the direction of writing, and XML forbids
//! most of them. They become visible (`\u{1b}`); all other text stays as it is. A name may not begin a line of its own, so
//! [`line()`] treats line ends alike; [`text`] keeps them, with tabs, where lines are meant.

use std::borrow::Cow;

/// True of characters that are never shown as they are: control characters (C0, DEL, C1), those that end a line or turn
/// the direction of writing, and those that no XML document may hold.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        || matches!(c, '\u{fffe}' | '\u{ffff}')
}

/// `text` as part of one line: hidden characters escaped, line ends and tabs among them.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, is_hidden)
}

/// `text` of several lines: hidden characters escaped, but line ends and tabs kept.
pub fn text(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_hidden(c) && c != '\n' && c != '\t')
}

/// JSON with its hidden characters escaped as JSON has it, so that its values stay what they are; line ends between
/// values are kept.
pub fn json(document: &str) -> Cow<'_, str> {
    let hidden = |c: char| is_hidden(c) && c != '\n';
    if !document.contains(hidden) {
        return Cow::Borrowed(document);
    }
    // Outside of strings JSON is ASCII, and inside them no control character of ASCII may stand unescaped.
    let escape = |c: char| match hidden(c) {
        true => format!("\\u{:04x}", c as u32),
        false => c.to_string(),
    };
    Cow::Owned(document.chars().map(escape).collect())
}

/// `text` as content or as an attribute in double quotes of HTML and XML: markup becomes entities, hidden characters are
/// escaped as [`line()`] has it.
pub fn markup(text: &str) -> String {
    line(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// `text` as it stands between backticks, of which it cannot get out.
pub fn code(text: &str) -> String {
    line(text).replace('`', "'")
}

/// `text` as part of a line of Markdown without meaning to it: names come from recipes and files, and may hold anything.
pub fn markdown(text: &str) -> String {
    let linked = text.contains("](");
    let mut safe = String::new();
    for c in line(text).chars() {
        match c {
            '|' | '*' | '_' | '`' | '\\' | '#' => safe.extend(['\\', c]),
            '[' | ']' if linked => safe.extend(['\\', c]),
            '<' => safe.push_str("&lt;"),
            _ => safe.push(c),
        }
    }
    safe
}

fn escaped(text: &str, hidden: impl Fn(char) -> bool + Copy) -> Cow<'_, str> {
    if !text.contains(hidden) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match hidden(c) {
            true => safe.extend(c.escape_default()),
            false => safe.push(c),
        }
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every character that a terminal, a reader or an XML parser may stumble over, and the plain ones beside them.
    fn any_text() -> impl Strategy<Value = String> {
        let hostile = prop::sample::select(vec![
            '\0', '\u{7}', '\u{8}', '\t', '\n', '\r', '\u{1b}', '\u{7f}', '\u{80}', '\u{85}', '\u{9b}', '\u{9f}',
            '\u{2028}', '\u{2029}', '\u{202a}', '\u{202e}', '\u{2066}', '\u{2069}', '\u{fffe}', '\u{ffff}',
        ]);
        prop::collection::vec(prop_oneof![hostile, any::<char>(), prop::char::range(' ', '~')], 0..40)
            .prop_map(|chars| chars.into_iter().collect())
    }

    proptest! {
        #[test]
        fn no_hidden_character_passes_and_harmless_text_is_untouched(given in any_text()) {
            prop_assert!(!line(&given).contains(is_hidden));
            prop_assert!(!text(&given).contains(|c| is_hidden(c) && c != '\n' && c != '\t'));
            let plain: String = given.chars().filter(|c| !is_hidden(*c)).collect();
            prop_assert!(line(&plain) == plain);
            prop_assert_eq!(text(&given).lines().count(), given.lines().count());
            prop_assert!(!markup(&given).contains(|c| is_hidden(c) || matches!(c, '<' | '>' | '"')));
        }

        #[test]
        fn what_was_shown_once_may_be_shown_again(given in any_text()) {
            let once = line(&given).into_owned();
            prop_assert!(line(&once) == once);
        }

        #[test]
        fn json_keeps_its_values(given in any_text()) {
            let document = serde_json::to_string_pretty(&vec![given.as_str()]).unwrap();
            let shown = json(&document);
            prop_assert!(!shown.contains(|c| is_hidden(c) && c != '\n'));
            prop_assert_eq!(serde_json::from_str::<Vec<String>>(&shown).unwrap(), vec![given]);
        }
    }

    #[test]
    fn names_cannot_break_a_line_of_markdown_or_become_markup() {
        assert_eq!(markdown("a|b\n*c*"), "a\\|b\\\\n\\*c\\*");
        assert_eq!(markdown("<b>[x](y)"), "&lt;b>\\[x\\](y)");
        assert_eq!(markdown("1.0 [0.9, 1.1]"), "1.0 [0.9, 1.1]");
    }

    #[test]
    fn escapes_line_ends_and_turns_of_direction_become_visible() {
        assert_eq!(line("\x1b]0;x\x07 a\nerror: b\u{9b}"), "\\u{1b}]0;x\\u{7} a\\nerror: b\\u{9b}");
        assert_eq!(line("\u{202e}abc\u{2028}"), "\\u{202e}abc\\u{2028}");
        assert_eq!(text("a\tb\nc\r"), "a\tb\nc\\r");
        assert_eq!(line("grün · 中文 🦀 é"), "grün · 中文 🦀 é");
    }
}
