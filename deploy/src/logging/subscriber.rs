//! From events of `tracing` to lines.

use std::{
    cell::RefCell,
    fmt::{self, Write},
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
    subscriber::Interest,
};

use super::{
    format::{self, Conn, Now, Severity, Style},
    output::Output,
};

/// Level, style and output.
pub(super) struct Lines {
    level: AtomicU8,
    style: AtomicU8,
    output: Output,
}

impl Lines {
    pub(super) fn new(output: Output) -> Self {
        Self { level: AtomicU8::new(0), style: AtomicU8::new(1), output }
    }

    pub(super) fn output(&self) -> &Output {
        &self.output
    }

    pub(super) fn set_style(&self, style: Style) {
        self.style.store(style.to_bits(), Ordering::Relaxed);
    }

    /// Changes the level, in the caches of all call sites, too.
    pub(super) fn set_level(&self, level: LevelFilter) {
        let number = level.into_level().map_or(0, number);
        if self.level.swap(number, Ordering::Relaxed) != number {
            tracing::callsite::rebuild_interest_cache();
        }
    }

    fn level(&self) -> LevelFilter {
        match self.level.load(Ordering::Relaxed) {
            0 => LevelFilter::OFF,
            1 => LevelFilter::ERROR,
            2 => LevelFilter::WARN,
            3 => LevelFilter::INFO,
            4 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        }
    }

    /// Libraries are heard when something is wrong only: what they trace says nothing to a user.
    fn wants(&self, meta: &Metadata<'_>) -> bool {
        let ours = meta.target().starts_with("crosspoint");
        meta.is_event() && *meta.level() <= self.level() && (ours || *meta.level() <= Level::WARN)
    }

    fn write(&self, event: &Event<'_>) {
        let style = Style::from_bits(self.style.load(Ordering::Relaxed));
        SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
            Ok(mut scratch) => self.write_with(&mut scratch, style, event),
            // A value that logs while it is printed.
            Err(_) => self.write_with(&mut Scratch::default(), style, event),
        });
    }

    fn write_with(&self, scratch: &mut Scratch, style: Style, event: &Event<'_>) {
        scratch.clear();
        event.record(scratch);
        let Scratch { conn, age, component, message, rest, line } = scratch;
        let conn = conn.map(|id| Conn { id, age: Duration::from_millis(*age) });
        let severity = Severity::Event(*event.metadata().level());
        format::line(line, style, &Now::take(), severity, conn, component, message, rest);
        self.output.write(line);
    }
}

fn number(level: Level) -> u8 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Buffers that a thread keeps, so that a line allocates nothing.
#[derive(Default)]
struct Scratch {
    conn: Option<u64>,
    age: u64,
    component: String,
    message: String,
    rest: String,
    line: Vec<u8>,
}

impl Scratch {
    /// Largest buffer that is kept.
    const KEEP: usize = 4096;

    fn clear(&mut self) {
        self.conn = None;
        self.age = 0;
        for text in [&mut self.component, &mut self.message, &mut self.rest] {
            text.clear();
            text.shrink_to(Self::KEEP);
        }
        self.line.clear();
        self.line.shrink_to(Self::KEEP);
    }

    fn put(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        // Writing into memory fails only if the value's own formatting does; what it wrote stays.
        let _ = match field.name() {
            "message" => self.message.write_fmt(value),
            "component" => self.component.write_fmt(value),
            // Of the `log` bridge.
            name if name.starts_with("log.") => Ok(()),
            name => write!(self.rest, " {name}={value}"),
        };
    }
}

impl Visit for Scratch {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let plain = !value.is_empty() && !value.contains([' ', '"', '=']);
        if plain || matches!(field.name(), "message" | "component") {
            self.put(field, format_args!("{value}"));
        } else {
            self.put(field, format_args!("{value:?}"));
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "conn" => self.conn = Some(value),
            "age" => self.age = value,
            _ => self.put(field, format_args!("{value}")),
        }
    }
}

/// The subscriber that `tracing` knows; the state is [`super::lines`].
pub(super) struct Global;

impl Subscriber for Global {
    fn register_callsite(&self, meta: &'static Metadata<'static>) -> Interest {
        if super::lines().wants(meta) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, meta: &Metadata<'_>) -> bool {
        super::lines().wants(meta)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(super::lines().level())
    }

    fn event(&self, event: &Event<'_>) {
        super::lines().write(event);
    }

    // Spans are never enabled: what belongs to a connection stands in its events.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}
