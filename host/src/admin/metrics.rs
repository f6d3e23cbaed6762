//! Which figures there are, by what names: of this process, and what Redis says of its handlers.
//!
//! Counts begin at 0 with the process. What Redis says is the same from every host. A name, once
//! given, is somebody's alert: it stays.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::exposition::{Exposition, Kind, Labels};
use super::readiness::Readiness;
use crate::figures::{Figures, Waits, read};
use crate::host::{Delivery, HandlerState, HandlerStatus, Roster, Status};
use crate::manifest::Supply;
use crate::outcome::Reason;

type Read<T> = (&'static str, &'static str, fn(&T) -> u64);

/// Counts of a handler in this host.
const COUNTS: [Read<Figures>; 10] = [
    ("tidegate_retries_total", "Failures that will be tried again.", |f| read(&f.retried)),
    (
        "tidegate_redelivered_total",
        "Deliveries taken back from a retry, a dead host or a lost reply.",
        |f| read(&f.redelivered),
    ),
    (
        "tidegate_superseded_total",
        "Settlements that came too late: the entry was no longer this host's.",
        |f| read(&f.superseded),
    ),
    ("tidegate_lost_total", "Entries found to be another host's while they were in hand.", |f| {
        read(&f.lost)
    }),
    ("tidegate_reconnects_total", "Times the reader had to connect again.", |f| {
        read(&f.reconnects)
    }),
    ("tidegate_groups_healed_total", "Times the group was gone and was created again.", |f| {
        read(&f.healed)
    }),
    ("tidegate_circuit_opened_total", "Times the circuit opened, as everything failed.", |f| {
        read(&f.circuit_opened)
    }),
    ("tidegate_swaps_total", "Times another version of the plugin took over.", |f| read(&f.swaps)),
    ("tidegate_swaps_refused_total", "Versions of the plugin that were refused.", |f| {
        read(&f.swaps_refused)
    }),
    ("tidegate_rollbacks_total", "Versions of the plugin that were taken back.", |f| {
        read(&f.rollbacks)
    }),
];

type Outcome = (&'static str, fn(&Figures) -> u64);

/// What came of messages in the end.
const OUTCOMES: [Outcome; 6] = [
    ("handled", |f| read(&f.handled)),
    ("skipped", |f| read(&f.skipped)),
    ("duplicate", |f| read(&f.duplicates)),
    ("buried", Figures::buried_in_all),
    ("failed", |f| read(&f.failed)),
    ("dropped", |f| read(&f.dropped)),
];

type Known = (&'static str, &'static str, fn(&HandlerStatus) -> Option<f64>);

/// What Redis says of a group.
const KNOWN: [Known; 10] = [
    ("tidegate_stream_length", "Entries on the stream.", |s| count(s.length)),
    ("tidegate_lag", "Entries that the group has not read.", |s| count(s.unread)),
    (
        "tidegate_oldest_unread_seconds",
        "How long the oldest entry that the group has not read has been on the stream.",
        oldest,
    ),
    (
        "tidegate_pending",
        "Entries read and not settled, those that wait for a retry included.",
        |s| count(s.pending),
    ),
    ("tidegate_retries_waiting", "Entries that wait for another attempt.", |s| {
        count(s.retries_waiting)
    }),
    (
        "tidegate_suspected",
        "Entries that run apart from all others, or have, since a host died with them in flight.",
        |s| count(s.suspected),
    ),
    ("tidegate_delayed", "Entries that are to appear on the stream later.", |s| count(s.delayed)),
    (
        "tidegate_dead_letters",
        "Letters on the handler's dead-letter stream, which handlers may share.",
        |s| count(s.dead),
    ),
    ("tidegate_hosts_alive", "Hosts that show themselves.", |s| {
        s.hosts_alive.map(|alive| alive as f64)
    }),
    ("tidegate_paused", "Whether an operator paused the handler on all hosts.", |s| {
        (s.delivery != Delivery::Channel).then(|| f64::from(u8::from(s.paused)))
    }),
];

fn count(figure: Option<u64>) -> Option<f64> {
    figure.map(|figure| figure as f64)
}

/// None waits where none is unread.
fn oldest(status: &HandlerStatus) -> Option<f64> {
    let none = (status.unread == Some(0)).then_some(0);
    status.oldest_unread_ms.or(none).map(|millis| millis as f64 / 1000.0)
}

/// All figures, as far as they are known.
pub(super) fn text(roster: &Roster, readiness: &Readiness, known: &Status) -> String {
    let states: Vec<_> = roster.now().into_iter().map(State::of).collect();
    let mut page = Exposition::default();
    of_the_host(&mut page, roster, readiness);
    counts(&mut page, &states);
    moments(&mut page, &states);
    costs(&mut page, &states);
    for (name, help, figure) in KNOWN {
        let mut family = page.family(name, Kind::Gauge, help);
        for status in &known.handlers {
            if let Some(figure) = figure(status) {
                family.sample(&known_labels(status), figure);
            }
        }
    }
    page.into_text()
}

/// A handler, and by which names it goes.
struct State {
    state: HandlerState,
    group: Option<Arc<str>>,
}

impl State {
    fn of(state: HandlerState) -> Self {
        let group = match state.handler.supply {
            Supply::Group | Supply::Broadcast => Some(state.handler.group.clone()),
            Supply::Channel => None,
        };
        Self { state, group }
    }

    fn figures(&self) -> &Figures {
        &self.state.figures
    }

    fn labels(&self) -> Labels<'_> {
        labels(&self.state.name, &self.state.handler.stream, self.group.as_deref())
    }

    /// Those, and one more.
    fn labels_and<'a>(&'a self, name: &'static str, value: &'a str) -> Labels<'a> {
        let mut labels = self.labels();
        labels.push((name, value));
        labels
    }
}

/// A channel is told of as a stream without a group.
fn labels<'a>(handler: &'a str, stream: &'a str, group: Option<&'a str>) -> Labels<'a> {
    let group = group.map(|group| ("group", group));
    [("handler", handler), ("stream", stream)].into_iter().chain(group).collect()
}

fn known_labels(status: &HandlerStatus) -> Labels<'_> {
    let source = status.stream.as_deref().or(status.channel.as_deref());
    labels(&status.handler, source.unwrap_or_default(), status.group.as_deref())
}

fn of_the_host(page: &mut Exposition, roster: &Roster, readiness: &Readiness) {
    let version = vec![("version", env!("CARGO_PKG_VERSION"))];
    page.family("tidegate_build_info", Kind::Gauge, "The version that runs.").sample(&version, 1);
    let mut ready = page.family("tidegate_ready", Kind::Gauge, "Whether the host is ready.");
    ready.sample(&Vec::new(), u8::from(readiness.ready));
    let help = "Whether the handler meets no trouble.";
    let mut ready = page.family("tidegate_handler_ready", Kind::Gauge, help);
    for handler in &readiness.handlers {
        ready.sample(&vec![("handler", &handler.handler)], u8::from(handler.ready));
    }
    let help = "Whether there is a connection to Redis.";
    let mut connected = page.family("tidegate_redis_connected", Kind::Gauge, help);
    let is_connected = roster.broker().is_some_and(|broker| broker.is_connected());
    connected.sample(&Vec::new(), u8::from(is_connected));
}

fn counts(page: &mut Exposition, states: &[State]) {
    let help = "Messages by what came of them in the end.";
    let mut family = page.family("tidegate_messages_total", Kind::Counter, help);
    for state in states {
        for (outcome, figure) in OUTCOMES {
            family.sample(&state.labels_and("outcome", outcome), figure(state.figures()));
        }
    }
    for (name, help, figure) in COUNTS {
        let mut family = page.family(name, Kind::Counter, help);
        for state in states {
            family.sample(&state.labels(), figure(state.figures()));
        }
    }
    let mut family = page.family("tidegate_buried_total", Kind::Counter, "Dead letters by reason.");
    for state in states {
        for reason in Reason::ALL {
            let labels = state.labels_and("reason", reason.as_str());
            family.sample(&labels, state.figures().buried(reason));
        }
    }
    let help = "Requests that Redis refused or did not answer, by kind of trouble.";
    let mut family = page.family("tidegate_troubles_total", Kind::Counter, help);
    for state in states {
        for (kind, count) in state.figures().troubles() {
            family.sample(&state.labels_and("kind", kind), count);
        }
    }
    let help = "Seconds spent in calls of the plugin, all that ran at once added up.";
    let mut family = page.family("tidegate_handler_seconds_total", Kind::Counter, help);
    for state in states {
        family.sample(&state.labels(), state.figures().busy().as_secs_f64());
    }
}

fn moments(page: &mut Exposition, states: &[State]) {
    let help = "Messages being handled at this moment.";
    let mut family = page.family("tidegate_in_flight", Kind::Gauge, help);
    for state in states {
        family.sample(&state.labels(), read(&state.figures().in_flight));
    }
    let help = "Whether the circuit is open, and one message is tried now and then.";
    let mut family = page.family("tidegate_circuit_open", Kind::Gauge, help);
    for state in states.iter().filter(|state| state.state.handler.circuit.is_some()) {
        let is_open = state.figures().circuit_is_open.load(Ordering::Relaxed);
        family.sample(&state.labels(), u8::from(is_open));
    }
    let help = "Seconds from a message's append to its acknowledgement as handled.";
    let mut family = page.family("tidegate_queue_to_acknowledged_seconds", Kind::Histogram, help);
    for state in states {
        let waits: Waits = state.figures().waits();
        family.waits(&state.labels(), &waits);
    }
}

/// What versions of plugins cost; those that are at work no more are not told of.
fn costs(page: &mut Exposition, states: &[State]) {
    use crate::figures::VersionCost as Cost;
    type Figure = (&'static str, Kind, &'static str, fn(&Cost) -> f64);
    let figures: [Figure; 5] = [
        ("tidegate_plugin_calls_total", Kind::Counter, "Calls; a batch is one.", |c| {
            c.calls as f64
        }),
        (
            "tidegate_plugin_cpu_seconds_total",
            Kind::Counter,
            "Seconds for which a plugin held a thread.",
            |c| c.cpu_ms as f64 / 1000.0,
        ),
        (
            "tidegate_plugin_memory_peak_bytes",
            Kind::Gauge,
            "The most memory that one instance had.",
            |c| c.memory_peak as f64,
        ),
        ("tidegate_plugin_instances_started_total", Kind::Counter, "Instances started.", |c| {
            c.started as f64
        }),
        (
            "tidegate_plugin_instances_retired_total",
            Kind::Counter,
            "Instances replaced, as they broke, had taken their calls or had grown.",
            |c| c.retired as f64,
        ),
    ];
    let costs: Vec<_> = states.iter().map(|state| (state, state.figures().costs())).collect();
    for (name, kind, help, figure) in figures {
        let mut family = page.family(name, kind, help);
        for (state, cost) in
            costs.iter().flat_map(|(state, all)| all.iter().map(move |c| (state, c)))
        {
            family.sample(&state.labels_and("plugin", &cost.plugin), figure(cost));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::broker::GroupStatus;
    use crate::manifest::{Handler, Manifest, ProcessEnvironment};

    fn handler() -> Handler {
        let text = "[handler.charge]\nplugin = \"charge.wasm\"\nstream = \"orders\"\n";
        let manifest = Manifest::parse(text, Path::new("t.toml"), &ProcessEnvironment).unwrap();
        manifest.handlers.into_iter().next().unwrap()
    }

    fn shown(group: Option<GroupStatus>) -> String {
        let handlers = vec![HandlerStatus::new(&handler(), group, None)];
        let known = Status { redis: String::new(), handlers };
        let (roster, stop) = (Roster::default(), crate::shutdown::Stop::new());
        text(&roster, &Readiness::of(&roster, &stop), &known)
    }

    #[test]
    fn a_figure_that_redis_cannot_give_is_left_out_and_one_that_is_zero_is_zero() {
        let text = shown(None);
        assert!(!text.contains("tidegate_lag") && !text.contains("tidegate_pending"), "{text}");
        let text = shown(Some(GroupStatus { lag: None, pending: 0, ..GroupStatus::default() }));
        let labels = r#"{handler="charge",stream="orders",group="charge"}"#;
        assert!(text.contains(&format!("\ntidegate_pending{labels} 0\n")), "{text}");
        assert!(!text.contains("tidegate_lag") && !text.contains("oldest_unread"), "{text}");
        let text = shown(Some(GroupStatus { lag: Some(0), ..GroupStatus::default() }));
        assert!(text.contains(&format!("\ntidegate_oldest_unread_seconds{labels} 0\n")), "{text}");
    }
}
