//! Figures in Prometheus' text format, version 0.0.4.
//!
//! See <https://prometheus.io/docs/instrumenting/exposition_formats/>. A family without a sample is
//! left out: a figure that nobody knows is absent. (The client library of that project leaves
//! quotes in the values of labels as they are; names of streams may have some.)

use std::fmt::{Display, Write};

use crate::figures::Waits;

/// What the text is, as a scraper wants to know.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family's samples are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A number that only grows.
    Counter,
    /// A number that comes and goes.
    Gauge,
    /// Counts by length.
    Histogram,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Names and values that tell samples of a family apart.
pub(super) type Labels<'a> = Vec<(&'static str, &'a str)>;

/// Families of samples, as text.
#[derive(Debug, Default)]
pub(super) struct Exposition(String);

impl Exposition {
    /// Begins a family; its samples follow.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let head = format!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.as_str());
        Family { text: &mut self.0, name, head: Some(head) }
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }
}

/// A family whose samples are being written.
pub(super) struct Family<'e> {
    text: &'e mut String,
    name: &'static str,
    /// Until there is a sample.
    head: Option<String>,
}

impl Family<'_> {
    /// Adds a sample.
    pub(super) fn sample(&mut self, labels: &Labels<'_>, value: impl Display) {
        self.line("", labels, &value);
    }

    /// Adds the samples of a histogram, in seconds.
    pub(super) fn waits(&mut self, labels: &Labels<'_>, waits: &Waits) {
        let bucket = |family: &mut Self, most: &str, count: u64| {
            let mut labels = labels.clone();
            labels.push(("le", most));
            family.line("_bucket", &labels, &count);
        };
        for (most, count) in &waits.up_to {
            bucket(self, &most.as_secs_f64().to_string(), *count);
        }
        bucket(self, "+Inf", waits.count);
        self.line("_sum", labels, &waits.sum.as_secs_f64());
        self.line("_count", labels, &waits.count);
    }

    fn line(&mut self, suffix: &str, labels: &Labels<'_>, value: &dyn Display) {
        self.text.extend(self.head.take());
        let labels: Vec<_> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels =
            if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        writeln!(self.text, "{}{suffix}{labels} {value}", self.name).expect("a string takes all");
    }
}

/// The three characters that a label's value may not have as they are.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn names_that_would_break_the_format_are_escaped() {
        let mut page = Exposition::default();
        let mut family = page.family("tidegate_pending", Kind::Gauge, "Entries.");
        family.sample(&vec![("stream", "a\"b\\c\nd"), ("group", "g")], 3);
        let text = "# HELP tidegate_pending Entries.\n# TYPE tidegate_pending gauge\n\
            tidegate_pending{stream=\"a\\\"b\\\\c\\nd\",group=\"g\"} 3\n";
        assert_eq!(page.into_text(), text);
    }

    #[test]
    fn what_nobody_knows_is_left_out_altogether() {
        let mut page = Exposition::default();
        page.family("tidegate_lag", Kind::Gauge, "Entries.");
        assert_eq!(page.into_text(), "");
    }

    #[test]
    fn waits_are_told_in_seconds() {
        let mut page = Exposition::default();
        let up_to = vec![(Duration::from_millis(5), 1), (Duration::from_secs(10), 2)];
        let waits = Waits { up_to, count: 3, sum: Duration::from_millis(61_500) };
        page.family("w", Kind::Histogram, "Waits.").waits(&Vec::new(), &waits);
        let lines: Vec<_> = page.into_text().lines().skip(2).map(str::to_owned).collect();
        let expected = [
            "w_bucket{le=\"0.005\"} 1",
            "w_bucket{le=\"10\"} 2",
            "w_bucket{le=\"+Inf\"} 3",
            "w_sum 61.5",
            "w_count 3",
        ];
        assert_eq!(lines, expected);
    }
}
