//! Dotted keys as TOML writes them.

/// Segments as one dotted key, quoted where TOML asks for it.
pub(super) fn join(path: &[impl AsRef<str>]) -> String {
    let bare = |s: &str| !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let segment = |s: &str| if bare(s) { s.to_string() } else { quoted(s) };
    path.iter().map(|s| segment(s.as_ref())).collect::<Vec<_>>().join(".")
}

/// A TOML basic string.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
