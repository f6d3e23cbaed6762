//! Durations and sizes as people type them.

use std::time::Duration;

use bytesize::ByteSize;

/// A duration such as `250ms`, `30s` or `5m`; a number without a unit is none.
///
/// Capitals are refused because `5M` would be five months.
pub fn duration(text: &str) -> Option<Duration> {
    let bare = text.trim().parse::<f64>().is_ok();
    if bare || text.chars().any(char::is_uppercase) {
        return None;
    }
    humantime::parse_duration(text).ok()
}

/// A size in bytes such as `64MiB`; a number without a unit is none.
pub(super) fn size(text: &str) -> Option<u64> {
    if text.trim().parse::<f64>().is_ok() {
        return None;
    }
    text.parse::<ByteSize>().ok().map(|size| size.as_u64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_their_unit() {
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(duration("5m"), Some(Duration::from_secs(300)));
        assert_eq!(duration("1h 30m"), Some(Duration::from_secs(5400)));
        for wrong in ["", "30", "0", "5M", "-1s", "soon", "30 parsecs", "99999999999999999999s"] {
            assert_eq!(duration(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn sizes_carry_their_unit() {
        assert_eq!(size("64MiB"), Some(64 << 20));
        assert_eq!(size("1.5 GiB"), Some(3 << 29));
        assert_eq!(size("64MB"), Some(64_000_000));
        for wrong in ["", "64", "6.4", "1e9", "-1MiB", "big", "64MiBs", "inf", "NaN"] {
            assert_eq!(size(wrong), None, "{wrong:?}");
        }
    }
}
