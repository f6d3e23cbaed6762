//! Asks its host for what the fields of a message tell it to: keys, configuration, log lines.
//!
//! Each field is one instruction, obeyed in order; fields of other names are left alone. What is
//! answered goes to the stream `out`, as a field of the instruction's name: `none` for what is not
//! there, and `error: …` for an error.
//!
//! | field                  | what happens                                                           |
//! |------------------------|------------------------------------------------------------------------|
//! | `bucket=<identifier>`  | those that follow are about this bucket; about `""` before             |
//! | `key=<key>`            | and about this key                                                     |
//! | `get` `exists` `delete`| does that                                                              |
//! | `set=<value>`          | sets the key                                                           |
//! | `fill=<n>`             | sets it to n bytes                                                     |
//! | `list`                 | lists all pages: the keys in order, quoted                             |
//! | `add=<n>`              | increments by n; `add2` by the second draft, where n may be below zero |
//! | `append=<text>`        | reads, and swaps for that and the text, until it succeeds              |
//! | `swap=<value>`         | swaps what was there before a write of `between` for the value         |
//! | `hoard=<n>`            | holds n handles for a swap of the key at once                          |
//! | `set-many=<a=1 …>`     | sets several keys; `get-many` and `delete-many` take `<a …>`           |
//! | `get-until-error`      | reads the key again and again; asks for a retry with the error it gets |
//! | `config=<name>`        | reads one name of the configuration; `config-all` all                  |
//! | `log=<level …>`        | logs the text behind the level, in the context `probe`                 |

mod asking;

use exports::tidegate::plugin::handler::Guest;
use tidegate::plugin::types::{Entry, Failure, Field, Message, Output};

wit_bindgen::generate!({
    path: "../../wit",
    inline: r#"
        package tidegate:probe-reach;

        world reach {
            include tidegate:plugin/plugin@0.1.0;
            include wasi:keyvalue/imports@0.2.0-draft;
            include wasi:keyvalue/imports@0.2.0-draft2;
            include wasi:config/imports@0.2.0-rc.1;
            include wasi:logging/imports@0.1.0-draft;
        }
    "#,
    world: "tidegate:probe-reach/reach",
    generate_all,
});

struct Probe;
export!(Probe);

impl Guest for Probe {
    fn handle(message: Message) -> Result<Vec<Output>, Failure> {
        let mut asking = asking::Asking::default();
        let mut fields = Vec::new();
        for Field { name, value } in message.fields {
            let value = String::from_utf8_lossy(&value).into_owned();
            if name == "get-until-error" && message.attempt > 1 {
                continue;
            }
            if let Some(answer) = asking.obey(&name, &value)? {
                fields.push(Field { name, value: answer.into_bytes() });
            }
        }
        fields.push(Field { name: "id".into(), value: message.id.into_bytes() });
        Ok(vec![Output::Append(Entry { stream: "out".into(), fields, delay_ms: None })])
    }
}
