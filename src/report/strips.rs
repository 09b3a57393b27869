//! Draws a gallery as SVG or PNG: strips of pictures with their captions beneath.

use super::figure::Rgb;
use super::picture::{Cell, Gallery, Panel, Strip};
use super::plot::{Canvas, Drawn, Place, drawn_png, drawn_svg};
use crate::error::Result;
use plotters::prelude::DrawingBackend;
use plotters::style::text_anchor::{HPos, VPos};

const INK: Rgb = (40, 40, 40);
const SOFT: Rgb = (120, 120, 120);
const LINE: Rgb = (222, 222, 222);
const GROUND: Rgb = (250, 249, 246);
const GOOD: Rgb = (0, 128, 84);
const BAD: Rgb = (190, 40, 40);
/// The colours of things in the order of the task: red, blue, green, gold.
const COLOURS: [Rgb; 4] = [(205, 52, 52), (0, 104, 180), (20, 148, 90), (228, 164, 20)];

/// Width of the column of labels, of a panel with the gap behind it, and of a panel, in CSS pixels.
const LABEL: f64 = 118.0;
const STRIDE: f64 = 222.0;
const PANEL: f64 = 198.0;
/// Above the first strip, and the margin around everything.
const HEAD: f64 = 70.0;
const MARGIN: f64 = 20.0;
/// Font size and line height of captions.
const CAPTION: (f64, f64) = (10.5, 14.0);

/// The gallery as an SVG document.
pub fn svg(gallery: &Gallery) -> Result<String> {
    drawn_svg(gallery.name, size(gallery), |canvas| paint(canvas, gallery))
}

/// The gallery as the content of a PNG file.
pub fn png(gallery: &Gallery) -> Result<Vec<u8>> {
    drawn_png(gallery.name, size(gallery), |canvas| paint(canvas, gallery))
}

/// Height of a picture: its cells are squares.
fn picture_height(gallery: &Gallery) -> f64 {
    let cells = gallery.strips.iter().flat_map(|s| &s.panels).map(|p| p.cells.len()).max().unwrap_or(0);
    PANEL * cells.div_ceil(gallery.columns) as f64 / gallery.columns as f64
}

/// Height of a strip with room for its longest caption; a font's mean width is about half its size.
fn strip_height(gallery: &Gallery, strip: &Strip) -> f64 {
    let longest = strip.panels.iter().map(|p| p.caption.chars().count()).max().unwrap_or(0);
    let lines = (longest as f64 * 0.56 * CAPTION.0 / (PANEL - 24.0)).ceil() + 1.0;
    picture_height(gallery) + 14.0 + lines * CAPTION.1 + 12.0
}

fn size(gallery: &Gallery) -> Place {
    let panels = gallery.strips.iter().map(|s| s.panels.len()).max().unwrap_or(0).max(3);
    let height: f64 = gallery.strips.iter().map(|s| strip_height(gallery, s)).sum();
    (MARGIN + LABEL + STRIDE * panels as f64, HEAD + height + MARGIN)
}

fn paint<B: DrawingBackend>(canvas: &Canvas<B>, gallery: &Gallery) -> Drawn<B> {
    let (width, height) = size(gallery);
    canvas.rectangle((0.0, 0.0), (width, height), (255, 255, 255), 1.0)?;
    canvas.text(&gallery.title, (MARGIN, 16.0), 16.0, INK, HPos::Left, VPos::Top)?;
    let middle = 48.0;
    mark(canvas, (MARGIN + 6.0, middle), true)?;
    canvas.text(
        "everything is drawn as the caption says",
        (MARGIN + 20.0, middle),
        12.0,
        SOFT,
        HPos::Left,
        VPos::Center,
    )?;
    mark(canvas, (MARGIN + 306.0, middle), false)?;
    let wrong = "something is not; a caption in red has a fault of its own";
    canvas.text(wrong, (MARGIN + 320.0, middle), 12.0, SOFT, HPos::Left, VPos::Center)?;
    let mut top = HEAD;
    for strip in &gallery.strips {
        let name = canvas.fitted(&strip.model, 14.0, LABEL - 14.0);
        canvas.text(&name, (MARGIN, top), 14.0, INK, HPos::Left, VPos::Top)?;
        for (i, note) in strip.notes.iter().enumerate() {
            canvas.text(note, (MARGIN, top + 22.0 + 17.0 * i as f64), 12.0, SOFT, HPos::Left, VPos::Top)?;
        }
        for (i, panel) in strip.panels.iter().enumerate() {
            draw_panel(canvas, gallery, panel, (MARGIN + LABEL + STRIDE * i as f64, top))?;
        }
        top += strip_height(gallery, strip);
    }
    Ok(())
}

fn draw_panel<B: DrawingBackend>(canvas: &Canvas<B>, gallery: &Gallery, panel: &Panel, (left, top): Place) -> Drawn<B> {
    let side = PANEL / gallery.columns as f64;
    let (right, bottom) = (left + PANEL, top + picture_height(gallery));
    let rows = panel.cells.len().div_ceil(gallery.columns);
    canvas.rectangle((left, top), (right, bottom), GROUND, 1.0)?;
    for c in 1..gallery.columns {
        let x = left + side * c as f64;
        // The captions speak of quadrants, so their borders are stronger.
        let width = if 2 * c == gallery.columns { 2.2 } else { 0.7 };
        canvas.path(&[(x, top), (x, bottom)], LINE, width, 1.0)?;
    }
    for r in 1..rows {
        let y = top + side * r as f64;
        let width = if 2 * r == rows { 2.2 } else { 0.7 };
        canvas.path(&[(left, y), (right, y)], LINE, width, 1.0)?;
    }
    for (i, cell) in panel.cells.iter().enumerate() {
        let middle = (i % gallery.columns, i / gallery.columns);
        let middle = (left + side * (middle.0 as f64 + 0.5), top + side * (middle.1 as f64 + 0.5));
        match cell {
            Cell::Empty => {}
            Cell::Thing(colour, kind) => {
                let (outline, colour) = (outline(*kind, middle, 0.36 * side), COLOURS[colour % COLOURS.len()]);
                canvas.polygon(&outline, colour)?;
                // A bitmap's polygons have rough edges, and its thin lines smooth ones.
                let closed: Vec<Place> = outline.iter().chain(outline.first()).copied().collect();
                canvas.path(&closed, colour, 0.5, 1.0)?;
            }
            Cell::Word(word) => {
                let word = canvas.fitted(word, 8.0, side - 2.0);
                canvas.text(&word, middle, 8.0, BAD, HPos::Center, VPos::Center)?;
            }
        }
    }
    let frame = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)];
    canvas.path(&frame, SOFT, 1.0, 1.0)?;
    mark(canvas, (left + 6.0, bottom + 15.0), panel.agrees)?;
    let ink = if panel.valid { INK } else { BAD };
    for (i, line) in wrapped(canvas, &panel.caption, PANEL - 20.0).iter().enumerate() {
        let at = (left + 20.0, bottom + 9.0 + CAPTION.1 * i as f64);
        canvas.text(line, at, CAPTION.0, ink, HPos::Left, VPos::Top)?;
    }
    Ok(())
}

/// The outline of a thing of a kind: star, disc, square, triangle.
fn outline(kind: usize, (x, y): Place, r: f64) -> Vec<Place> {
    let around = |n: usize, turn: f64, radius: &dyn Fn(usize) -> f64| -> Vec<Place> {
        let angle = |i: usize| std::f64::consts::TAU * (i as f64 / n as f64 + turn);
        (0..n).map(|i| (x + radius(i) * angle(i).sin(), y - radius(i) * angle(i).cos())).collect()
    };
    match kind {
        0 => around(10, 0.0, &|i| if i % 2 == 0 { 1.2 * r } else { 0.5 * r }),
        1 => around(48, 0.0, &|_| r),
        2 => around(4, 0.125, &|_| 1.28 * r),
        // Lower than its centre of gravity, so that it looks centred.
        _ => around(3, 0.0, &|_| 1.25 * r).into_iter().map(|(x, y)| (x, y + 0.2 * r)).collect(),
    }
}

/// A tick or a cross around `(x, y)`.
fn mark<B: DrawingBackend>(canvas: &Canvas<B>, (x, y): Place, good: bool) -> Drawn<B> {
    if good {
        return canvas.path(&[(x - 5.0, y), (x - 1.5, y + 4.0), (x + 5.5, y - 5.0)], GOOD, 2.4, 1.0);
    }
    canvas.path(&[(x - 4.5, y - 4.5), (x + 4.5, y + 4.5)], BAD, 2.4, 1.0)?;
    canvas.path(&[(x - 4.5, y + 4.5), (x + 4.5, y - 4.5)], BAD, 2.4, 1.0)
}

/// `text` in lines no wider than `room`.
fn wrapped<B: DrawingBackend>(canvas: &Canvas<B>, text: &str, room: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if canvas.width(&format!("{line} {word}"), CAPTION.0) <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_string()),
        }
    }
    lines
}
