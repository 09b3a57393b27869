//! Draws a figure as SVG or PNG with `plotters`, in pixel coordinates of our own so that nothing overlaps: the legend has
//! a column of its own, step counts move aside or are left out, and text uses fonts that are part of the binary.

use super::figure::{Axis, Figure, Guide, Marker, Point, Rgb, Run, Scale, Series};
use crate::error::{Error, Kind, Result};
use crate::eval::stats::Estimate;
use crate::shown;
use image::codecs::png::PngEncoder;
use image::{ColorType, ImageEncoder};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Width and height in CSS pixels, unless the legend needs more.
const SIZE: (f64, f64) = (900.0, 560.0);
/// From one line of the legend to the next.
const LINE: f64 = 23.0;
/// Pixels of a PNG per CSS pixel, for sharp text on today's screens.
const PNG_SCALE: f64 = 2.0;
/// Left, top, right and bottom edge of the plot's frame.
const FRAME: [f64; 4] = [82.0, 52.0, 690.0, 486.0];
/// The list a browser chooses from; the bitmap backend finds the registered face under this very name.
const FONT: &str = "DejaVu Sans, Verdana, sans-serif";
const INK: Rgb = (40, 40, 40);
const GRID: Rgb = (226, 226, 226);
const WHITE_INK: Rgb = (255, 255, 255);
/// Numbers are drawn up to this size: differences of larger ones are no numbers.
const LARGEST: f64 = 1e300;
/// Longest text that is drawn, in characters.
const LONGEST: usize = 300;
/// How much further down, in font sizes, the bitmap backend must set text to centre it as a browser does.
const BITMAP_DROP: f64 = 0.2;

/// The figure as an SVG document.
///
/// # Errors
/// A figure that cannot be drawn (I/O).
pub fn svg(figure: &Figure) -> Result<String> {
    drawn_svg(figure.name, size(figure), |canvas| paint(canvas, figure))
}

/// The figure as the content of a PNG file.
///
/// # Errors
/// A figure that cannot be drawn (I/O).
pub fn png(figure: &Figure) -> Result<Vec<u8>> {
    drawn_png(figure.name, size(figure), |canvas| paint(canvas, figure))
}

/// What `paint` draws on a canvas of a size in CSS pixels, as an SVG document; `name` is for errors.
pub(super) fn drawn_svg(
    name: &str,
    (width, height): Place,
    paint: impl for<'a> FnOnce(&Canvas<SVGBackend<'a>>) -> Drawn<SVGBackend<'a>>,
) -> Result<String> {
    let mut text = String::new();
    let area = SVGBackend::with_string(&mut text, (width.ceil() as u32, height.ceil() as u32)).into_drawing_area();
    draw(area, 1.0, 0.0, name, paint)?;
    Ok(text)
}

/// As [`drawn_svg`], as the content of a PNG file.
pub(super) fn drawn_png(
    name: &str,
    (width, height): Place,
    paint: impl for<'a> FnOnce(&Canvas<BitMapBackend<'a>>) -> Drawn<BitMapBackend<'a>>,
) -> Result<Vec<u8>> {
    let size = ((width.ceil() * PNG_SCALE) as u32, (height.ceil() * PNG_SCALE) as u32);
    let mut pixels = vec![0; 3 * size.0 as usize * size.1 as usize];
    draw(BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area(), PNG_SCALE, BITMAP_DROP, name, paint)?;
    let mut file = Vec::new();
    PngEncoder::new(&mut file)
        .write_image(&pixels, size.0, size.1, ColorType::Rgb8)
        .map_err(|e| Error::new(Kind::Io, format!("cannot draw {name}")).cause(e.to_string()))?;
    Ok(file)
}

fn draw<B: DrawingBackend>(
    area: DrawingArea<B, Shift>,
    scale: f64,
    drop: f64,
    name: &str,
    paint: impl FnOnce(&Canvas<B>) -> Drawn<B>,
) -> Result<()> {
    for (style, face) in [(FontStyle::Normal, dejavu::sans::regular()), (FontStyle::Bold, dejavu::sans::bold())] {
        if plotters::style::register_font(FONT, style, face).is_err() {
            panic!("the bundled font is not a font");
        }
    }
    let canvas = Canvas { area, scale, drop };
    let failed = |e: Fault<B>| Error::new(Kind::Io, format!("cannot draw {name}")).cause(e.to_string());
    paint(&canvas).map_err(failed)?;
    canvas.area.present().map_err(failed)
}

type Fault<B> = DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>;
pub(super) type Drawn<B> = std::result::Result<(), Fault<B>>;
pub(super) type Place = (f64, f64);

/// The canvas of a figure: as large as its legend needs, up to a width of twice the usual one.
fn size(figure: &Figure) -> Place {
    let names = figure.series.iter().map(|s| &s.name).chain(figure.guides.iter().map(|g| &g.name));
    let bounds = figure.series.iter().any(|s| s.bound);
    let own = if bounds { BOUND.len() } else { 0 };
    let longest = names.clone().map(|n| n.chars().count()).max().unwrap_or(0).max(own) as f64;
    // What stands behind the names takes at most five lines.
    let lines = (names.count() + 3 + usize::from(has_seeds(figure)) + usize::from(bounds)) as f64;
    let width = (FRAME[2] + 16.0 + 50.0 + 8.0 * longest).min(2.0 * SIZE.0);
    (width.max(SIZE.0), (FRAME[1] + 8.0 + LINE * lines).max(SIZE.1))
}

/// What the legend says of series that are bounds.
const BOUND: &str = "dashed curve: an upper bound";

fn has_seeds(figure: &Figure) -> bool {
    figure.series.iter().flat_map(|s| &s.points).any(|p| !p.seeds.is_empty())
}

fn paint<B: DrawingBackend>(canvas: &Canvas<B>, figure: &Figure) -> Drawn<B> {
    let map = Map::new(figure);
    canvas.rectangle((0.0, 0.0), size(figure), WHITE_INK, 1.0)?;
    frame(canvas, figure, &map)?;
    for guide in &figure.guides {
        draw_guide(canvas, guide, &map)?;
    }
    for series in &figure.series {
        let line: Vec<Place> = series.points.iter().map(|p| map.place(p)).collect();
        // Piece by piece: where a line turns back sharply, a bitmap's joint would be a spike across the plot.
        for piece in line.windows(2) {
            match series.bound {
                true => canvas.dashes(piece[0], piece[1], series.color, false)?,
                false => canvas.path(piece, series.color, 1.8, 0.75)?,
            }
        }
        for p in &series.points {
            error_bars(canvas, p, series.color, &map)?;
            for &(x, y) in &p.seeds {
                canvas.dot(map.at(x, y), series.color)?;
            }
        }
    }
    let mut taken: Vec<Boxed> = Vec::new();
    let [left, top, right, bottom] = FRAME;
    for p in figure.series.iter().flat_map(|s| &s.points) {
        let (x, y) = map.place(p);
        let across = (map.x.at(p.x.low, left, right), map.x.at(p.x.high, left, right));
        let along = (map.y.at(p.y.high, bottom, top), map.y.at(p.y.low, bottom, top));
        taken.push(Boxed { at: (x - 3.0, along.0), to: (x + 3.0, along.1) });
        taken.push(Boxed { at: (across.0, y - 3.0), to: (across.1, y + 3.0) });
    }
    for series in &figure.series {
        for p in &series.points {
            let at = map.place(p);
            canvas.marker(series.marker, at, series.color, p.open)?;
            taken.push(Boxed { at: (at.0 - 6.0, at.1 - 6.0), to: (at.0 + 6.0, at.1 + 6.0) });
        }
    }
    for series in &figure.series {
        for p in &series.points {
            tag(canvas, p, series.color, map.place(p), &mut taken)?;
        }
    }
    legend(canvas, figure)
}

fn frame<B: DrawingBackend>(canvas: &Canvas<B>, figure: &Figure, map: &Map) -> Drawn<B> {
    let [left, top, right, bottom] = FRAME;
    let mut last = f64::MIN;
    for &tick in &map.x.ticks {
        let x = map.x.at(tick, left, right);
        canvas.path(&[(x, top), (x, bottom)], GRID, 1.0, 1.0)?;
        let text = number(tick);
        let half = canvas.width(&text, 13.0) / 2.0;
        if x - half > last + 6.0 {
            canvas.text(&text, (x, bottom + 8.0), 13.0, INK, HPos::Center, VPos::Top)?;
            last = x + half;
        }
    }
    for &tick in &map.y.ticks {
        let y = map.y.at(tick, bottom, top);
        canvas.path(&[(left, y), (right, y)], GRID, 1.0, 1.0)?;
        canvas.text(&number(tick), (left - 8.0, y), 13.0, INK, HPos::Right, VPos::Center)?;
    }
    canvas.path(&[(left, top), (left, bottom), (right, bottom)], INK, 1.2, 1.0)?;
    let middle = (left + right) / 2.0;
    canvas.text(&figure.title, (left, 16.0), 16.0, INK, HPos::Left, VPos::Top)?;
    canvas.text(&figure.x.label, (middle, bottom + 36.0), 14.0, INK, HPos::Center, VPos::Top)?;
    canvas.upright(&figure.y.label, (18.0, (top + bottom) / 2.0), 14.0)
}

fn draw_guide<B: DrawingBackend>(canvas: &Canvas<B>, guide: &Guide, map: &Map) -> Drawn<B> {
    let [left, top, right, bottom] = FRAME;
    let Estimate { mean, low, high } = guide.value;
    match guide.run {
        Run::Horizontal => {
            let y = |v| map.y.at(v, bottom, top);
            if low < high {
                canvas.rectangle((left, y(high)), (right, y(low)), guide.color, 0.12)?;
            }
            canvas.dashes((left, y(mean)), (right, y(mean)), guide.color, guide.dotted)
        }
        Run::Vertical => {
            let x = |v| map.x.at(v, left, right);
            if low < high {
                canvas.rectangle((x(low), top), (x(high), bottom), guide.color, 0.12)?;
            }
            canvas.dashes((x(mean), top), (x(mean), bottom), guide.color, guide.dotted)
        }
    }
}

fn error_bars<B: DrawingBackend>(canvas: &Canvas<B>, p: &Point, color: Rgb, map: &Map) -> Drawn<B> {
    let [left, top, right, bottom] = FRAME;
    let (x, y) = map.place(p);
    let cap = 4.0;
    if p.y.low < p.y.high {
        let (a, b) = (map.y.at(p.y.low, bottom, top), map.y.at(p.y.high, bottom, top));
        canvas.path(&[(x, a), (x, b)], color, 1.3, 1.0)?;
        canvas.path(&[(x - cap, a), (x + cap, a)], color, 1.3, 1.0)?;
        canvas.path(&[(x - cap, b), (x + cap, b)], color, 1.3, 1.0)?;
    }
    if p.x.low < p.x.high {
        let (a, b) = (map.x.at(p.x.low, left, right), map.x.at(p.x.high, left, right));
        canvas.path(&[(a, y), (b, y)], color, 1.3, 1.0)?;
        canvas.path(&[(a, y - cap), (a, y + cap)], color, 1.3, 1.0)?;
        canvas.path(&[(b, y - cap), (b, y + cap)], color, 1.3, 1.0)?;
    }
    Ok(())
}

/// A rectangle that is already used, by its corners.
struct Boxed {
    at: Place,
    to: Place,
}

impl Boxed {
    fn meets(&self, other: &Boxed) -> bool {
        self.at.0 < other.to.0 && other.at.0 < self.to.0 && self.at.1 < other.to.1 && other.at.1 < self.to.1
    }
    fn leaves_frame(&self) -> bool {
        let [left, top, right, bottom] = FRAME;
        self.at.0 < left || self.to.0 > right || self.at.1 < top || self.to.1 > bottom
    }
}

/// Writes a point's tag at the first free place around it, or not at all.
fn tag<B: DrawingBackend>(canvas: &Canvas<B>, p: &Point, color: Rgb, at: Place, taken: &mut Vec<Boxed>) -> Drawn<B> {
    if p.tag.is_empty() {
        return Ok(());
    }
    let (w, h) = (canvas.width(&p.tag, 12.0), 11.0);
    let (right, left, up, down) = (7.0, -7.0 - w, -17.0, 6.0);
    for (dx, dy) in [(right, up), (left, up), (right, down), (left, down), (1.8 * right, -5.0), (left - 6.0, -5.0)] {
        let place = (at.0 + dx, at.1 + dy);
        let space = Boxed { at: (place.0 - 1.0, place.1 - 1.0), to: (place.0 + w + 1.0, place.1 + h + 1.0) };
        if !space.leaves_frame() && !taken.iter().any(|t| t.meets(&space)) {
            taken.push(space);
            return canvas.text(&p.tag, place, 12.0, color, HPos::Left, VPos::Top);
        }
    }
    Ok(())
}

fn legend<B: DrawingBackend>(canvas: &Canvas<B>, figure: &Figure) -> Drawn<B> {
    let left = FRAME[2] + 16.0;
    let mut y = FRAME[1] + 8.0;
    let mut label = |canvas: &Canvas<B>, name: &str| -> std::result::Result<f64, Fault<B>> {
        let at = y;
        let name = canvas.fitted(name, 13.0, size(figure).0 - left - 44.0);
        canvas.text(&name, (left + 38.0, at), 13.0, INK, HPos::Left, VPos::Center)?;
        y += LINE;
        Ok(at)
    };
    for Series { name, color, marker, points, bound } in &figure.series {
        let at = label(canvas, name)?;
        match (points.len() > 1, bound) {
            (true, true) => canvas.dashes((left, at), (left + 30.0, at), *color, false)?,
            (true, false) => canvas.path(&[(left, at), (left + 30.0, at)], *color, 1.8, 0.75)?,
            (false, _) => {}
        }
        canvas.marker(*marker, (left + 15.0, at), *color, false)?;
    }
    for guide in &figure.guides {
        let at = label(canvas, &guide.name)?;
        match guide.run {
            Run::Horizontal => canvas.dashes((left, at), (left + 30.0, at), guide.color, guide.dotted)?,
            Run::Vertical => {
                canvas.dashes((left + 15.0, at - 9.0), (left + 15.0, at + 9.0), guide.color, guide.dotted)?
            }
        }
    }
    if figure.series.iter().any(|s| s.bound) {
        let at = label(canvas, BOUND)?;
        canvas.dashes((left, at), (left + 30.0, at), INK, false)?;
    }
    if figure.series.iter().flat_map(|s| &s.points).any(|p| p.open) {
        let at = label(canvas, "open: collapse")?;
        canvas.marker(Marker::Circle, (left + 15.0, at), INK, true)?;
    }
    if has_seeds(figure) {
        let at = label(canvas, "dots: single seeds")?;
        canvas.dot((left + 9.0, at), INK)?;
        canvas.dot((left + 15.0, at - 4.0), INK)?;
        canvas.dot((left + 21.0, at + 3.0), INK)?;
    }
    let at = label(canvas, &format!("bars: {}", figure.bars))?;
    if figure.series.iter().flat_map(|s| &s.points).any(|p| p.x.low < p.x.high) && figure.x.scale == Scale::Log10 {
        label(canvas, "(of time: quartiles)")?;
    }
    canvas.path(&[(left + 15.0, at - 8.0), (left + 15.0, at + 8.0)], INK, 1.3, 1.0)?;
    canvas.path(&[(left + 11.0, at - 8.0), (left + 19.0, at - 8.0)], INK, 1.3, 1.0)?;
    canvas.path(&[(left + 11.0, at + 8.0), (left + 19.0, at + 8.0)], INK, 1.3, 1.0)
}

/// From numbers to places: both axes with their ranges and ticks.
struct Map {
    x: Range,
    y: Range,
}

struct Range {
    scale: Scale,
    low: f64,
    high: f64,
    ticks: Vec<f64>,
}

impl Map {
    fn new(figure: &Figure) -> Self {
        let guides = |run| figure.guides.iter().filter(move |g| g.run == run).map(|g| g.value);
        let points = || figure.series.iter().flat_map(|s| &s.points);
        let seeds = || points().flat_map(|p| &p.seeds).filter(|_| figure.x.scale != Scale::Log2);
        let along = || points().flat_map(|p| &p.seeds);
        let exact = |x: f64| Estimate::exact(x);
        Map {
            x: Range::new(
                &figure.x,
                points().map(|p| p.x).chain(guides(Run::Vertical)).chain(seeds().map(|s| exact(s.0))),
            ),
            y: Range::new(
                &figure.y,
                points().map(|p| p.y).chain(guides(Run::Horizontal)).chain(along().map(|s| exact(s.1))),
            ),
        }
    }
    fn at(&self, x: f64, y: f64) -> Place {
        let [left, top, right, bottom] = FRAME;
        (self.x.at(x, left, right), self.y.at(y, bottom, top))
    }
    fn place(&self, p: &Point) -> Place {
        self.at(p.x.mean, p.y.mean)
    }
}

/// How far outside a frame something may be placed, in its widths.
const FAR: f64 = 50.0;

impl Range {
    /// The range of an axis that holds every interval with a margin.
    fn new(axis: &Axis, values: impl Iterator<Item = Estimate>) -> Self {
        let values: Vec<Estimate> = values.collect();
        let scale = axis.scale;
        let low = values.iter().map(|e| scaled(scale, e.low)).fold(f64::MAX, f64::min);
        let high = values.iter().map(|e| scaled(scale, e.high)).fold(f64::MIN, f64::max);
        // An axis without values, or with one, has a range too; the margin is more than the rounding of a large number.
        let (low, high) = if low <= high { (low, high) } else { (0.0, 0.0) };
        let margin = if high > low { 0.05 * (high - low) } else { 0.5 };
        let margin = margin.max(1e-9 * low.abs().max(high.abs()));
        let (low, high) = (low - margin, high + margin);
        let ticks = match scale {
            Scale::Linear => linear_ticks(low, high),
            Scale::Log2 => {
                let mut steps: Vec<f64> = values.iter().map(|e| e.mean).filter(|k| k.is_finite()).collect();
                steps.sort_by(f64::total_cmp);
                steps.dedup();
                steps
            }
            Scale::Log10 => log_ticks(low, high),
        };
        Range { scale, low, high, ticks }
    }

    /// The place of `value` between the pixels of the range's two ends.
    fn at(&self, value: f64, start: f64, end: f64) -> f64 {
        // Far outside nothing is seen, and a line that leads there must not have dashes without end.
        let share = ((scaled(self.scale, value) - self.low) / (self.high - self.low)).clamp(-FAR, FAR);
        start + (end - start) * share
    }
}

fn scaled(scale: Scale, value: f64) -> f64 {
    let value = if value.is_nan() { 0.0 } else { value.clamp(-LARGEST, LARGEST) };
    match scale {
        Scale::Linear => value,
        Scale::Log2 => value.max(f64::MIN_POSITIVE).log2(),
        Scale::Log10 => value.max(f64::MIN_POSITIVE).log10(),
    }
}

/// Multiples of 1, 2 or 5 times a power of ten, about six of them.
fn linear_ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 6.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough).unwrap_or(power);
    // At most ten, whatever the numbers are.
    let first = (low / step).ceil();
    (0..10).map(|i| (first + f64::from(i)) * step).take_while(|t| *t <= high).collect()
}

/// Round numbers between two powers of ten (given as exponents), finer where the range is short.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let within = |digits: &[f64]| -> Vec<f64> {
        (low.floor() as i32..=high.ceil() as i32)
            .flat_map(|e| digits.iter().map(move |d| d * 10f64.powi(e)))
            .filter(|t| (low..=high).contains(&t.log10()))
            .collect()
    };
    let choices: [&[f64]; 4] = [
        &[1.0],
        &[1.0, 2.0, 5.0],
        &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0],
        &[1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2.0, 2.2, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 7.0, 8.0, 9.0],
    ];
    let best = choices.iter().map(|d| within(d)).find(|t| t.len() >= 5).unwrap_or_default();
    if best.is_empty() { linear_ticks(10f64.powf(low), 10f64.powf(high)) } else { best }
}

/// A tick's number without trailing zeros.
fn number(value: f64) -> String {
    if value.abs() >= 1e9 || (value != 0.0 && value.abs() < 1e-6) {
        return format!("{value:e}");
    }
    let text = format!("{value:.6}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.into() }
}

/// A drawing area in CSS pixels.
pub(super) struct Canvas<B: DrawingBackend> {
    area: DrawingArea<B, Shift>,
    /// Device pixels per CSS pixel.
    scale: f64,
    /// See [`BITMAP_DROP`].
    drop: f64,
}

impl<B: DrawingBackend> Canvas<B> {
    /// The pixel at a place; of one far outside of the drawing the nearest that a backend can still count from.
    fn pixel(&self, (x, y): Place) -> (i32, i32) {
        let (width, height) = self.area.dim_in_pixel();
        let near = |at: f64, size: u32| {
            let size = f64::from(size);
            (at * self.scale).round().clamp(-size, 2.0 * size) as i32
        };
        (near(x, width), near(y, height))
    }

    /// `text` as it may be drawn: an SVG is XML, and a name may be anything.
    fn drawable(text: &str) -> String {
        let mut cut: String = text.chars().take(LONGEST).collect();
        if cut.len() < text.len() {
            cut.push('…');
        }
        shown::line(&cut).into_owned()
    }

    pub(super) fn path(&self, points: &[Place], color: Rgb, width: f64, alpha: f64) -> Drawn<B> {
        let points: Vec<(i32, i32)> = points.iter().map(|p| self.pixel(*p)).collect();
        let width = (width * self.scale).round().max(1.0) as u32;
        let style = ShapeStyle { color: ink(color).mix(alpha), filled: false, stroke_width: width };
        self.area.draw(&PathElement::new(points, style))
    }

    fn dashes(&self, from: Place, to: Place, color: Rgb, dotted: bool) -> Drawn<B> {
        let (dash, gap) = if dotted { (2.0, 4.0) } else { (8.0, 5.0) };
        let length = (to.0 - from.0).hypot(to.1 - from.1);
        let along = |d: f64| (from.0 + (to.0 - from.0) * d / length, from.1 + (to.1 - from.1) * d / length);
        let count = (length / (dash + gap)).ceil() as usize;
        (0..count)
            .map(|i| i as f64 * (dash + gap))
            .try_for_each(|start| self.path(&[along(start), along((start + dash).min(length))], color, 1.6, 1.0))
    }

    pub(super) fn rectangle(&self, at: Place, to: Place, color: Rgb, alpha: f64) -> Drawn<B> {
        self.area.draw(&Rectangle::new([self.pixel(at), self.pixel(to)], ink(color).mix(alpha).filled()))
    }

    pub(super) fn polygon(&self, outline: &[Place], color: Rgb) -> Drawn<B> {
        let pixels: Vec<(i32, i32)> = outline.iter().map(|p| self.pixel(*p)).collect();
        self.area.draw(&Polygon::new(pixels, ink(color).filled()))
    }

    fn marker(&self, marker: Marker, (x, y): Place, color: Rgb, open: bool) -> Drawn<B> {
        let r = 5.5;
        let spokes = |n: usize, turn: f64, radius: &dyn Fn(usize) -> f64| -> Vec<Place> {
            (0..n)
                .map(|i| {
                    let angle = std::f64::consts::TAU * (i as f64 / n as f64 + turn);
                    (x + radius(i) * angle.sin(), y - radius(i) * angle.cos())
                })
                .collect()
        };
        let outline = match marker {
            Marker::Circle => spokes(24, 0.0, &|_| r),
            Marker::Square => spokes(4, 0.125, &|_| 1.25 * r),
            Marker::Up => spokes(3, 0.0, &|_| 1.3 * r),
            Marker::Diamond => spokes(4, 0.0, &|_| 1.3 * r),
            Marker::Down => spokes(3, 0.5, &|_| 1.3 * r),
            Marker::Pentagon => spokes(5, 0.0, &|_| 1.15 * r),
            Marker::Star => spokes(10, 0.0, &|i| if i % 2 == 0 { 1.45 * r } else { 0.6 * r }),
            Marker::Spark => spokes(8, 0.0, &|i| if i % 2 == 0 { 1.5 * r } else { 0.55 * r }),
            Marker::Cross => {
                let ends = spokes(4, 0.125, &|_| 1.15 * r);
                self.path(&[ends[0], ends[2]], color, 2.2, 1.0)?;
                return self.path(&[ends[1], ends[3]], color, 2.2, 1.0);
            }
        };
        let fill = if open { WHITE_INK } else { color };
        self.polygon(&outline, fill)?;
        let closed: Vec<Place> = outline.iter().chain(outline.first()).copied().collect();
        self.path(&closed, if open { color } else { WHITE_INK }, if open { 1.8 } else { 0.8 }, 1.0)
    }

    /// A small mark: one training seed.
    fn dot(&self, (x, y): Place, color: Rgb) -> Drawn<B> {
        let around = |i: usize| std::f64::consts::TAU * i as f64 / 12.0;
        let outline: Vec<Place> = (0..12).map(|i| (x + 2.2 * around(i).sin(), y - 2.2 * around(i).cos())).collect();
        self.polygon(&outline, color)
    }

    fn style(&self, size: f64, color: Rgb) -> TextStyle<'static> {
        (FONT, size * 1.24 * self.scale).into_font().color(&ink(color))
    }

    pub(super) fn text(&self, text: &str, at: Place, size: f64, color: Rgb, h: HPos, v: VPos) -> Drawn<B> {
        let at = self.pixel((at.0, at.1 + self.drop * size));
        self.area.draw_text(&Self::drawable(text), &self.style(size, color).pos(Pos::new(h, v)), at)
    }

    /// Text that runs upwards, centred at `at`.
    fn upright(&self, text: &str, at: Place, size: f64) -> Drawn<B> {
        let style = self.style(size, INK).transform(FontTransform::Rotate270).pos(Pos::new(HPos::Center, VPos::Center));
        self.area.draw_text(&Self::drawable(text), &style, self.pixel(at))
    }

    /// Width of `text` in CSS pixels, as the bundled font sets it.
    pub(super) fn width(&self, text: &str, size: f64) -> f64 {
        let measured = self.area.estimate_text_size(text, &self.style(size, INK));
        measured.map_or(0.62 * size * text.chars().count() as f64, |(w, _)| f64::from(w) / self.scale)
    }

    /// `text`, cut with an ellipsis where it is wider than `room`.
    pub(super) fn fitted(&self, text: &str, size: f64, room: f64) -> String {
        let mut cut = Self::drawable(text);
        while self.width(&cut, size) > room && cut.chars().count() > 2 {
            cut = cut.chars().take(cut.chars().count() - 2).collect::<String>() + "…";
        }
        cut
    }
}

fn ink((r, g, b): Rgb) -> RGBColor {
    RGBColor(r, g, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers_inside_the_range() {
        assert_eq!(linear_ticks(-0.01, 1.02).len(), 6);
        assert_eq!(log_ticks(-2.1, 1.2).iter().map(|t| number(*t)).collect::<Vec<_>>()[..2], ["0.01", "0.02"]);
        for (low, high) in [(0.0, 0.001), (0.05, 0.09), (-3.0, 4.0), (0.0, 0.3)] {
            let ticks = log_ticks(low, high);
            assert!(
                ticks.len() >= 2 && ticks.iter().all(|t| (low - 1e-9..=high + 1e-9).contains(&t.log10())),
                "{ticks:?}"
            );
        }
    }

    #[test]
    fn tick_numbers_have_no_trailing_zeros() {
        assert_eq!([number(2.0), number(0.25), number(-0.0), number(256.0)], ["2", "0.25", "0", "256"]);
        assert_eq!([number(1e300), number(-2e-9), number(65536.0)], ["1e300", "-2e-9", "65536"]);
    }

    #[test]
    fn a_range_of_any_numbers_has_few_ticks_and_a_width() {
        let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN, 1e17, 5e-324, 0.0, -1.5];
        for (a, b) in odd.iter().flat_map(|a| odd.iter().map(move |b| (*a, *b))) {
            for scale in [Scale::Linear, Scale::Log2, Scale::Log10] {
                let axis = Axis { label: String::new(), scale };
                let values = [Estimate { mean: a, low: a, high: b }, Estimate::exact(b)];
                let range = Range::new(&axis, values.into_iter());
                assert!(range.high > range.low && range.ticks.len() <= 700, "{scale:?} {a} {b}");
                assert!(range.at(a, 0.0, 1.0).is_finite() && range.at(b, 0.0, 1.0).is_finite(), "{scale:?} {a} {b}");
            }
            assert!(Range::new(&Axis { label: String::new(), scale: Scale::Linear }, std::iter::empty()).high > 0.0);
        }
    }
}
