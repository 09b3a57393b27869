//! The report as Markdown.

use super::table::Table;
use super::{Page, Part};
use crate::shown::{self, markdown as escape};
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
                    let _ = writeln!(text, "- {}", shown::line(line));
                }
            }
        }
    }
    text
}

/// The link to a picture, where the program draws any.
fn image(name: &str, title: &str) -> String {
    if !cfg!(feature = "plots") {
        return format!("*{}*: not drawn\n", escape(title));
    }
    format!("![{}]({name}.svg)\n", escape(title))
}

fn rows(table: &Table) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.iter().map(|c| cell(c)).collect::<Vec<_>>().join(" | "));
    let rule = format!("|{}\n", " --- |".repeat(table.header.len()));
    let body: String = table.rows.iter().map(|r| line(r)).collect();
    format!("## {}\n\n{}{rule}{body}", title(&table.title), line(&table.header))
}

/// A heading of ours, in which a score is named.
fn title(text: &str) -> String {
    shown::line(text).replace('<', "&lt;").replace("](", "]\\(")
}

/// A cell's text; the emphasis around *collapse* is the only markup that cells have.
fn cell(text: &str) -> String {
    match text.strip_suffix(" *collapse*") {
        Some(name) => format!("{} *collapse*", escape(name)),
        None => escape(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_of_a_collapse_is_the_only_markup_of_a_cell() {
        assert_eq!(cell("my_student *collapse*"), "my\\_student *collapse*");
        assert_eq!(cell("*x* *collapse*"), "\\*x\\* *collapse*");
        assert_eq!(title("a\n# b <c> ![d](e)"), "a\\n# b &lt;c> ![d]\\(e)");
    }
}
