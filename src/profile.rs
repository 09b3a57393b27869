//! Time per operation: every kernel opens a `tracing` span, and a profile adds up how long each kind was open.
//!
//! An operation's own time leaves out that of the operations inside it, so that the column adds up. Spans are opened by
//! the thread that asks for an operation and stay open while others help it: the times are wall time. What no span covers
//! (reading data, drawing noise, the framework's own operations) is the line `elsewhere`.

use std::fmt::{Display, Formatter};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indexmap::IndexMap;
use tracing::span::{Attributes, Id};
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

/// Calls and own time of one kind of operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Total {
    calls: u64,
    own: Duration,
}

type Totals = Arc<Mutex<IndexMap<&'static str, Total>>>;

/// One open span: when it was entered, how long it was open, and how long spans inside it were.
#[derive(Debug, Default)]
struct Open {
    entered: Option<Instant>,
    total: Duration,
    inner: Duration,
}

struct Collector(Totals);

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Collector {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.metadata().target().starts_with(env!("CARGO_PKG_NAME"))
            && let Some(span) = context.span(id)
        {
            span.extensions_mut().insert(Open::default());
        }
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(open) = span.extensions_mut().get_mut::<Open>()
        {
            open.entered = Some(Instant::now());
        }
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(open) = span.extensions_mut().get_mut::<Open>()
            && let Some(entered) = open.entered.take()
        {
            open.total += entered.elapsed();
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(open) = span.extensions_mut().remove::<Open>() else { return };
        if let Some(parent) = span.parent()
            && let Some(above) = parent.extensions_mut().get_mut::<Open>()
        {
            above.inner += open.total;
        }
        let mut totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let total = totals.entry(span.name()).or_default();
        total.calls += 1;
        total.own += open.total.saturating_sub(open.inner);
    }
}

/// The times of this thread's operations from [`Profile::start`] on.
pub struct Profile {
    totals: Totals,
    began: Instant,
    _listening: DefaultGuard,
}

impl Profile {
    /// Listens to the operations this thread asks for, until it is dropped.
    pub fn start() -> Self {
        let totals = Totals::default();
        let listening = tracing::subscriber::set_default(Registry::default().with(Collector(totals.clone())));
        Profile { totals, began: Instant::now(), _listening: listening }
    }

    /// What was measured since the start or the last time it was taken.
    pub fn take(&mut self) -> Times {
        let totals = std::mem::take(&mut *self.totals.lock().unwrap_or_else(PoisonError::into_inner));
        let wall = self.began.elapsed();
        self.began = Instant::now();
        let mut rows: Vec<(&'static str, Total)> = totals.into_iter().collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.1.own));
        let inside: Duration = rows.iter().map(|(_, t)| t.own).sum();
        rows.push(("elsewhere", Total { calls: 0, own: wall.saturating_sub(inside) }));
        Times { rows, wall }
    }
}

/// A table of operations, the longest first.
pub struct Times {
    rows: Vec<(&'static str, Total)>,
    wall: Duration,
}

impl Display for Times {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let wall = self.wall.as_secs_f64().max(f64::MIN_POSITIVE);
        writeln!(f, "{:<28} {:>9} {:>11} {:>7}", "operation", "calls", "seconds", "share")?;
        for (name, total) in &self.rows {
            let (own, calls) = (total.own.as_secs_f64(), total.calls);
            let calls = if calls == 0 { "-".into() } else { calls.to_string() };
            writeln!(f, "{name:<28} {calls:>9} {own:>11.3} {:>6.1}%", 100.0 * own / wall)?;
        }
        writeln!(f, "{:<28} {:>9} {wall:>11.3} {:>6.1}%", "all", "", 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(ms: u64) {
        let until = Instant::now() + Duration::from_millis(ms);
        while Instant::now() < until {}
    }

    #[test]
    fn an_operation_inside_another_is_counted_once() {
        let mut profile = Profile::start();
        for _ in 0..2 {
            let _outer = tracing::trace_span!("outer").entered();
            wait(5);
            let _inner = tracing::trace_span!("inner").entered();
            wait(20);
        }
        let times = profile.take();
        let of = |name: &str| times.rows.iter().find(|r| r.0 == name).map(|r| r.1).unwrap_or_default();
        let (outer, inner) = (of("outer"), of("inner"));
        assert_eq!((outer.calls, inner.calls), (2, 2));
        assert!(inner.own >= Duration::from_millis(40) && outer.own >= Duration::from_millis(10), "{times}");
        let sum: Duration = times.rows.iter().map(|r| r.1.own).sum();
        assert!(sum <= times.wall + Duration::from_millis(1), "{times}");
    }

    #[test]
    fn taking_the_times_begins_anew() {
        let mut profile = Profile::start();
        tracing::trace_span!("once").in_scope(|| wait(1));
        assert!(profile.take().to_string().contains("once"));
        assert!(!profile.take().to_string().contains("once"));
    }
}
