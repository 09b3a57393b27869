//! A progress bar on a terminal, where the binary was built with bars (feature `cli`); a library never draws one.

/// The progress bar of one task.
pub struct Bar(#[cfg(feature = "cli")] indicatif::ProgressBar, #[cfg(not(feature = "cli"))] std::convert::Infallible);

/// What a bar counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    Steps,
    Bytes,
}

#[cfg(feature = "cli")]
impl Bar {
    /// A bar that stands `at` so many of `total`; nothing where bars do not belong on stderr.
    pub fn new(name: &str, counts: Counts, at: u64, total: u64) -> Option<Bar> {
        let template = match counts {
            Counts::Steps => "{prefix} {wide_bar} {pos}/{len}  {msg}  {eta} left",
            Counts::Bytes => {
                "{prefix} {wide_bar} {decimal_bytes}/{decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left"
            }
        };
        super::bars().then(|| {
            let bar = indicatif::ProgressBar::new(total).with_position(at);
            if let Ok(style) = indicatif::ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_prefix(name.to_string());
            Bar(bar)
        })
    }

    /// So many are done.
    pub fn at(&self, done: u64) {
        self.0.set_position(done);
    }

    /// The text next to the bar.
    pub fn say(&self, message: String) {
        self.0.set_message(message);
    }

    /// A line above it.
    pub fn line(&self, text: String) {
        self.0.println(text);
    }

    /// Takes it away.
    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}

#[cfg(not(feature = "cli"))]
impl Bar {
    /// Without the feature `cli` nothing is drawn.
    pub fn new(_: &str, _: Counts, _: u64, _: u64) -> Option<Bar> {
        None
    }

    /// So many are done.
    pub fn at(&self, _: u64) {
        match self.0 {}
    }

    /// The text next to the bar.
    pub fn say(&self, _: String) {
        match self.0 {}
    }

    /// A line above it.
    pub fn line(&self, _: String) {
        match self.0 {}
    }

    /// Takes it away.
    pub fn finish(&self) {
        match self.0 {}
    }
}
