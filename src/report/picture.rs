//! Generated pictures with their captions beneath, as one gallery: a strip of samples for each model and number of steps.
//!
//! A tick or a cross says whether everything in a picture is what its caption says.

use super::table::shown;
use crate::data::picture::{PAD, Pictures};
use crate::eval::results::{ModelResult, Results, Row};

/// What one cell shows.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    Empty,
    /// Colour and kind by number.
    Thing(usize, usize),
    /// A word that is no part of a picture.
    Word(String),
}

/// One sample.
#[derive(Debug, Clone)]
pub struct Panel {
    pub caption: String,
    /// The caption has no fault.
    pub valid: bool,
    /// The picture agrees with it.
    pub agrees: bool,
    /// Row by row.
    pub cells: Vec<Cell>,
}

/// The samples of one row of the results.
#[derive(Debug, Clone)]
pub struct Strip {
    pub model: String,
    /// Lines beneath the model's name.
    pub notes: Vec<String>,
    pub panels: Vec<Panel>,
}

/// All strips.
#[derive(Debug, Clone)]
pub struct Gallery {
    /// File name without ending.
    pub name: &'static str,
    pub title: String,
    /// Cells of a row of a picture.
    pub columns: usize,
    pub strips: Vec<Strip>,
}

/// The gallery of a study whose samples were kept; nothing for other kinds of data.
pub fn gallery(results: &Results) -> Option<Gallery> {
    let task = Pictures::new(results.data.pictures.as_ref()?).ok()?;
    let mut strips = Vec::new();
    for model in shown(results) {
        // Few steps beside many: what a picture loses when it is drawn at once.
        let mut rows: Vec<&Row> = model.rows.iter().filter(|r| !r.examples.is_empty()).collect();
        rows.sort_by_key(|r| r.steps);
        let ends = [rows.first(), rows.last()].into_iter().flatten().take(rows.len());
        strips.extend(ends.map(|row| strip(&task, model, row)));
    }
    let title = format!("{}: first samples, drawn from their tokens", results.study);
    (!strips.is_empty()).then_some(Gallery { name: "pictures", title, columns: task.shape().columns, strips })
}

fn strip(task: &Pictures, model: &ModelResult, row: &Row) -> Strip {
    let mut notes = vec![format!("{} steps", row.steps), format!("{:.0} passes", row.nfe)];
    if let Some(share) = row.scores.get("agreement") {
        notes.push(format!("{:.0} % agree", 100.0 * share.mean));
        notes.push(format!("(n = {})", row.n));
    }
    Strip { model: model.name.clone(), notes, panels: row.examples.iter().map(|e| panel(task, e)).collect() }
}

fn panel(task: &Pictures, tokens: &[u32]) -> Panel {
    let word = |t: &u32| task.words().get(*t as usize).map_or("·", String::as_str);
    let (text, picture) = tokens.split_at(task.shape().text);
    let end = text.iter().rposition(|t| word(t) != PAD).map_or(0, |last| last + 1);
    let mut caption = String::new();
    for (i, word) in text[..end].iter().map(word).enumerate() {
        // Commas and full stops stand at the word before them.
        if i > 0 && ![",", "."].contains(&word) {
            caption.push(' ');
        }
        caption.push_str(word);
    }
    let cell = |t: &u32| match (task.drawn(*t), task.is_empty(*t)) {
        (Some((colour, kind)), _) => Cell::Thing(colour, kind),
        (None, true) => Cell::Empty,
        (None, false) => Cell::Word(word(t).to_string()),
    };
    let reading = task.reading(tokens);
    Panel { caption, valid: reading.valid, agrees: reading.agrees, cells: picture.iter().map(cell).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::results::fixture;

    #[test]
    fn the_gallery_has_few_and_many_steps_of_each_model_and_marks_what_agrees() {
        let gallery = gallery(&fixture::pictures(1)).unwrap();
        let strips: Vec<(&str, &str)> =
            gallery.strips.iter().map(|s| (s.model.as_str(), s.notes[0].as_str())).collect();
        assert_eq!(strips, [("ar", "65 steps"), ("hybrid", "34 steps"), ("hybrid", "65 steps")]);
        for panel in gallery.strips.iter().flat_map(|s| &s.panels) {
            let things = panel.cells.iter().filter(|c| matches!(c, Cell::Thing(..))).count();
            assert!(panel.caption.ends_with("best.") && panel.cells.len() == 36, "{}", panel.caption);
            // Of the fixture's samples the last of each row has lost all its things.
            assert_eq!((panel.valid, panel.agrees), (true, things > 0));
        }
        #[cfg(feature = "plots")]
        {
            let text = super::super::strips::svg(&gallery).unwrap();
            assert!(text.contains("<polygon") && text.contains("likes the"));
        }
    }

    #[test]
    fn other_data_has_no_gallery() {
        assert!(gallery(&fixture::story(1)).is_none());
    }

    #[test]
    fn a_word_in_the_picture_is_shown_as_the_word_it_is() {
        let task = Pictures::new(&Default::default()).unwrap();
        let panel = panel(&task, &vec![1; task.shape().length()]);
        assert!(!panel.valid && panel.cells.iter().all(|c| *c == Cell::Word("paints".into())));
    }
}
