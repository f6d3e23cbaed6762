//! Points of a stream as an operator types them: an id, a time, or how long ago.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::manifest;
use crate::message::MessageId;

/// Where a range begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// At one entry.
    At(MessageId),
    /// At a millisecond since the Unix epoch.
    Time(u64),
    /// So long before now, by the server's clock.
    Ago(Duration),
}

/// What is expected of each, for messages.
const EXPECTED: &str = "expected an id such as 1716998413541-0, a time such as \
    2026-11-21T10:00:00Z or 2026-11-21, or how long ago, such as 30m";

/// Parses one from the command line.
pub(super) fn moment(text: &str) -> Result<Moment, String> {
    let whole_day = format!("{text}T00:00:00Z");
    let time = [text, &whole_day].into_iter().find_map(|t| humantime::parse_rfc3339_weak(t).ok());
    if let Some(time) = time {
        let since = time.duration_since(UNIX_EPOCH).map_err(|_| EXPECTED)?;
        return Ok(Moment::Time(since.as_millis() as u64));
    }
    if let Ok(millis) = text.parse() {
        return Ok(Moment::Time(millis));
    }
    if let Ok(id) = text.parse() {
        return Ok(Moment::At(id));
    }
    manifest::duration(text).map(Moment::Ago).ok_or_else(|| EXPECTED.to_owned())
}

impl Moment {
    /// The first id that a range has which begins here.
    pub(super) fn first(self, now: u64) -> MessageId {
        match self {
            Self::At(id) => id,
            Self::Time(millis) => MessageId { millis, sequence: 0 },
            Self::Ago(ago) => MessageId { millis: before(now, ago), sequence: 0 },
        }
    }

    /// The last id that a range has which ends here.
    pub(super) fn last(self, now: u64) -> MessageId {
        match self {
            Self::At(id) => id,
            Self::Time(millis) => MessageId { millis, sequence: u64::MAX },
            Self::Ago(ago) => MessageId { millis: before(now, ago), sequence: u64::MAX },
        }
    }
}

fn before(now: u64, ago: Duration) -> u64 {
    now.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX))
}

/// A time in milliseconds since the Unix epoch, for people and programs (RFC 3339): whole, so that a range which
/// ends at what was shown has it.
pub(super) fn shown(millis: u64) -> String {
    // Later than the format has years for: an id that a producer chose.
    const END: u64 = 253_402_300_799_999;
    let time: SystemTime = UNIX_EPOCH + Duration::from_millis(millis.min(END));
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_an_id_a_time_or_how_long_ago() {
        let cases = [
            ("1716998413541-7", Moment::At("1716998413541-7".parse().unwrap())),
            ("1716998413541", Moment::Time(1_716_998_413_541)),
            ("0", Moment::Time(0)),
            ("1970-01-01T00:00:01Z", Moment::Time(1000)),
            ("1970-01-02 00:00:00", Moment::Time(86_400_000)),
            ("1970-01-02", Moment::Time(86_400_000)),
            ("30m", Moment::Ago(Duration::from_secs(1800))),
        ];
        for (text, expected) in cases {
            assert_eq!(moment(text), Ok(expected), "{text}");
        }
        for wrong in ["", "soon", "30M", "1969-01-01", "1-x", "-5m"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_range_has_all_of_its_last_millisecond() {
        let time = moment("1970-01-01T00:00:01Z").unwrap();
        assert_eq!(time.first(0).to_string(), "1000-0");
        assert_eq!(time.last(0).sequence, u64::MAX);
        assert_eq!(moment("2s").unwrap().first(5000).to_string(), "3000-0");
        assert_eq!(moment("2h").unwrap().first(5000).to_string(), "0-0");
    }

    #[test]
    fn a_time_that_no_calendar_has_is_shown_all_the_same() {
        assert_eq!(shown(1234), "1970-01-01T00:00:01.234Z");
        assert_eq!(moment(&shown(1234)), Ok(Moment::Time(1234)));
        assert_eq!(shown(u64::MAX), "9999-12-31T23:59:59.999Z");
    }
}
