//! The report as one HTML file that needs nothing else: plots inlined, no scripts, light and dark.

use super::figure::Figure;
use super::picture::Gallery;
use super::table::Table;
use super::{Page, Part, svg};
use crate::error::Result;
use crate::shown::markup as escape;
use std::fmt::Write as _;

const STYLE: &str = "\
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --line: #d5d5d5; --soft: #f4f4f4; --warn: #a33c00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e4e4; --paper: #17191c; --line: #3c4046; --soft: #212429; --warn: #ff9d5c; }
}
body { margin: 2rem auto; max-width: 1180px; padding: 0 1rem; color: var(--ink); background: var(--paper);
  font: 15px/1.5 system-ui, \"DejaVu Sans\", Verdana, sans-serif; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 1.2rem 0; } figure svg { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: left; white-space: nowrap; }
th { background: var(--soft); } em { color: var(--warn); font-weight: 600; }
code { background: var(--soft); padding: 0 .25rem; border-radius: 3px; }
";

/// The page as HTML with its plots as inline SVG.
///
/// # Errors
/// A plot that cannot be drawn (I/O).
pub fn render(page: &Page) -> Result<String> {
    let title = escape(&page.title);
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
    );
    for part in &page.parts {
        match part {
            Part::Facts(facts) => {
                text.push_str("<dl>\n");
                for (name, value) in facts {
                    let _ = writeln!(text, "<dt>{name}</dt><dd>{}</dd>", escape(value));
                }
                text.push_str("</dl>\n");
            }
            Part::Figure(Figure { title, .. }) | Part::Gallery(Gallery { title, .. }) => {
                if let Some((_, svg)) = svg(part)? {
                    let label = escape(title);
                    let _ = writeln!(text, "<figure role=\"img\" aria-label=\"{label}\">\n{svg}</figure>");
                }
            }
            Part::Table(table) => text.push_str(&rows(table)),
            Part::Notes { title, lines } => {
                let _ = writeln!(text, "<h2>{title}</h2>\n<ul>");
                for line in lines {
                    let _ = writeln!(text, "<li>{}</li>", code(line));
                }
                text.push_str("</ul>\n");
            }
        }
    }
    text.push_str("</body>\n</html>\n");
    Ok(text)
}

fn rows(table: &Table) -> String {
    let line = |tag: &str, cells: &[String]| {
        let cells: String = cells.iter().map(|c| format!("<{tag}>{}</{tag}>", cell(c))).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let body: String = table.rows.iter().map(|r| line("td", r)).collect();
    let head = line("th", &table.header);
    let title = escape(&table.title);
    format!(
        "<h2>{title}</h2>\n<div class=\"scroll\"><table>\n<thead>\n{head}</thead>\n<tbody>\n{body}</tbody>\n</table></div>\n"
    )
}

fn cell(text: &str) -> String {
    match text.strip_suffix(" *collapse*") {
        Some(name) => format!("{} <em>collapse</em>", escape(name)),
        None => escape(text),
    }
}

/// Text in which pairs of backticks become code and the one emphasised word its emphasis.
fn code(text: &str) -> String {
    let parts = text.split('`').enumerate();
    let text: String =
        parts.map(|(i, p)| if i % 2 == 1 { format!("<code>{}</code>", escape(p)) } else { escape(p) }).collect();
    text.replace("*collapse*", "<em>collapse</em>")
}
