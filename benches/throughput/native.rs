//! The measure: a worker as one would write it with the `redis` crate and care.
//!
//! A hundred entries a read, values as they come, one acknowledgement a batch.

use redis::io::tcp::TcpSettings;
use redis::{Client, IntoConnectionInfo, Value};

use crate::Result;
use crate::server::GROUP;

/// Reads, handles and acknowledges for as long as the process lives.
pub(crate) fn work(url: &str, stream: &str) -> Result<()> {
    let settings = TcpSettings::default().set_nodelay(true);
    let address = url.into_connection_info()?.set_tcp_settings(settings);
    let mut connection = Client::open(address)?.get_connection()?;
    let mut reading = redis::cmd("XREADGROUP");
    reading.arg("GROUP").arg(GROUP).arg("native").arg("COUNT").arg(100).arg("BLOCK").arg(2000);
    reading.arg("STREAMS").arg(stream).arg(">");
    loop {
        let reply: Value = reading.query(&mut connection)?;
        let entries = entries(&reply);
        let mut ids = Vec::with_capacity(entries.len());
        for entry in entries {
            ids.push(handle(entry)?);
        }
        if !ids.is_empty() {
            redis::cmd("XACK").arg(stream).arg(GROUP).arg(&ids).exec(&mut connection)?;
        }
    }
}

fn entries(reply: &Value) -> &[Value] {
    match pair(reply).first() {
        Some(stream) => pair(stream).get(1).map_or(&[], pair),
        None => &[],
    }
}

/// Does the work on an entry, and gives its id to acknowledge.
fn handle(entry: &Value) -> Result<&[u8]> {
    let [Value::BulkString(id), fields] = pair(entry) else {
        return Err("an entry is no id with fields".into());
    };
    let (fields, _) = pair(fields).as_chunks::<2>();
    let data = fields.iter().find_map(|field| match field {
        [Value::BulkString(name), Value::BulkString(value)] if name == b"data" => Some(value),
        _ => None,
    });
    tally_work::tally(data.ok_or("the message has no field `data`")?)?;
    Ok(id)
}

fn pair(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) => items,
        _ => &[],
    }
}
