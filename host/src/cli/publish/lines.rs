//! Lines of any bytes, one at a time.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// Bytes read ahead: a few hundred short lines.
const READ_AHEAD: usize = 256 << 10;

/// The longest line; Redis takes no value beyond `proto-max-bulk-len`, 512 MiB unless configured.
const LINE_BYTES: u64 = 512 << 20;

/// The lines of an input that may be endless.
pub(super) struct Lines<R> {
    input: BufReader<R>,
    number: u64,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input: BufReader::with_capacity(READ_AHEAD, input), number: 0 }
    }

    /// The next line without its end (`\n` or `\r\n`); none at the end of the input.
    pub(super) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.input).take(LINE_BYTES);
        let read = bounded.read_until(b'\n', &mut line).await?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        if line.pop_if(|last| *last == b'\n').is_some() {
            line.pop_if(|last| *last == b'\r');
        } else if read as u64 == LINE_BYTES {
            let problem = format!("line {} is longer than {LINE_BYTES} bytes", self.number);
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        Ok(Some(line))
    }

    /// The number of the line that was read last, from 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether no further line has been read ahead, so that the next one may take its time.
    pub(super) fn would_wait(&self) -> bool {
        !self.input.buffer().contains(&b'\n')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_lose_their_ends_and_nothing_else() {
        let mut lines = Lines::new(b"a\r\n\n \xff\r \nlast".as_slice());
        let mut read = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            read.push(line);
        }
        assert_eq!(read, [b"a".to_vec(), b"".to_vec(), b" \xff\r ".to_vec(), b"last".to_vec()]);
        assert_eq!(lines.number(), 4);
    }

    #[tokio::test]
    async fn a_line_that_is_only_half_there_is_waited_for() {
        let mut lines = Lines::new(b"a\nb\nhalf".as_slice());
        lines.next().await.unwrap();
        assert!(!lines.would_wait());
        lines.next().await.unwrap();
        assert!(lines.would_wait());
    }
}
