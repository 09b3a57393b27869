//! The report as Markdown.

use super::table::Table;
use super::{Page, Part};
use std::fmt::Write as _;

/// The page as Markdown; figures are linked as files beside it.
pub fn render(page: &Page) -> String {
    let mut text = format!("# {}\n", escape(&page.title));
    for part in &page.parts {
        text.push('\n');
        match part {
            Part::Facts(facts) => {
                for (name, value) in facts {
                    let _ = writeln!(text, "- **{name}** {}", escape(value));
                }
            }
            Part::Figure(figure) => text.push_str(&image(figure.name, &figure.title)),
            Part::Gallery(gallery) => text.push_str(&image(gallery.name, &gallery.title)),
            Part::Table(table) => text.push_str(&rows(table)),
            Part::Notes { title, lines } => {
                let _ = writeln!(text, "## {title}\n");
                for line in lines {
                    let _ = writeln!(text, "- {line}");
                }
            }
        }
    }
    text
}

fn image(name: &str, title: &str) -> String {
    format!("![{}]({name}.svg)\n", escape(title))
}

fn rows(table: &Table) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.iter().map(|c| cell(c)).collect::<Vec<_>>().join(" | "));
    let rule = format!("|{}\n", " --- |".repeat(table.header.len()));
    let body: String = table.rows.iter().map(|r| line(r)).collect();
    format!("## {}\n\n{}{rule}{body}", table.title, line(&table.header))
}

/// A cell's text; the emphasis around *collapse* is the only markup that cells have.
fn cell(text: &str) -> String {
    match text.strip_suffix(" *collapse*") {
        Some(name) => format!("{} *collapse*", escape(name)),
        None => escape(text),
    }
}

/// Text without meaning to Markdown: names come from recipes and may hold anything.
fn escape(text: &str) -> String {
    let mut safe = String::new();
    for c in text.chars() {
        match c {
            '|' | '*' | '_' | '`' | '\\' | '#' => safe.extend(['\\', c]),
            '[' | ']' if text.contains("](") => safe.extend(['\\', c]),
            '<' => safe.push_str("&lt;"),
            '\n' | '\r' => safe.push(' '),
            _ => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_a_table_or_become_markup() {
        assert_eq!(cell("a|b\n*c*"), "a\\|b \\*c\\*");
        assert_eq!(cell("<b>[x](y)"), "&lt;b>\\[x\\](y)");
        assert_eq!(cell("my_student *collapse*"), "my\\_student *collapse*");
        assert_eq!(cell("1.0 [0.9, 1.1]"), "1.0 [0.9, 1.1]");
    }
}
