//! The value of `--delay`.

use std::time::Duration;

use crate::broker::DELAY_MAX;

/// How long messages are delayed: a duration with its unit, within bounds.
pub(super) fn argument(text: &str) -> Result<Duration, String> {
    let delay = humantime::parse_duration(text)
        .map_err(|_| "expected a duration with its unit, such as 250ms, 5s or 2h".to_owned())?;
    if delay > DELAY_MAX {
        let most = DELAY_MAX.as_secs() / (24 * 3600);
        return Err(format!("expected no more than {most} days"));
    }
    Ok(delay)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_has_a_unit_and_an_end() {
        assert_eq!(argument("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(argument("365days"), Ok(DELAY_MAX));
        assert!(argument("5").unwrap_err().contains("unit"));
        assert!(argument("366days").unwrap_err().contains("365 days"));
    }
}
