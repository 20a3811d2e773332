//! The messages of event files in Protocol Buffers' wire format, as far as they are written here: event.proto,
//! summary.proto, tensor.proto and plugins/hparams/{api,plugin_data}.proto of TensorBoard 2.

use serde_json::Value;

/// A message that is being written.
#[derive(Default)]
pub struct Message(pub Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// A number of variable length.
    pub fn uint(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    /// A number of eight bytes.
    pub fn double(mut self, field: u64, value: f64) -> Self {
        self.varint(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// A number of four bytes.
    pub fn float(mut self, field: u64, value: f32) -> Self {
        self.varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Bytes, or text.
    pub fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    /// A message within this one.
    pub fn message(self, field: u64, message: Self) -> Self {
        self.bytes(field, &message.0)
    }
}

/// What an event holds: a field of `Event`.
pub enum Body {
    /// How a file begins.
    Version,
    /// Training begins, or goes on: what was written for this iteration and later ones is void.
    Start,
    /// Values.
    Summary(Message),
}

/// An `Event` of iteration `step`, at `time`, seconds since 1970.
pub fn event(time: f64, step: u64, body: Body) -> Vec<u8> {
    let event = Message::default().double(1, time);
    let event = match step {
        0 => event,
        step => event.uint(2, step),
    };
    let event = match body {
        Body::Version => event.bytes(3, b"brain.Event:2"),
        // SessionLog.status = START.
        Body::Start => event.message(7, Message::default().uint(1, 1)),
        Body::Summary(summary) => event.message(5, summary),
    };
    event.0
}

/// A `Summary` of scalars.
pub fn scalars(values: &[(String, f64)]) -> Message {
    let value = |(tag, value): &(String, f64)| {
        Message::default()
            .bytes(1, tag.as_bytes())
            .float(2, *value as f32)
    };
    let values = values.iter().map(value);
    values.fold(Message::default(), |summary, v| summary.message(1, v))
}

/// A `Summary` of the RGB image `png`, `width`×`height` pixels.
pub fn image(tag: &str, png: &[u8], width: u32, height: u32) -> Message {
    let image = Message::default()
        .uint(1, u64::from(height))
        .uint(2, u64::from(width))
        .uint(3, 3)
        .bytes(4, png);
    let value = Message::default()
        .bytes(1, tag.as_bytes())
        .message(4, image);
    Message::default().message(1, value)
}

/// A `Summary` of `text`, Markdown.
pub fn text(tag: &str, text: &str) -> Message {
    // DT_STRING, of shape [1].
    let shape = Message::default().message(2, Message::default().uint(1, 1));
    let tensor = Message::default()
        .uint(1, 7)
        .message(2, shape)
        .bytes(8, text.as_bytes());
    with_plugin(tag, "text", &[], tensor)
}

/// `Summary`s that tell TensorBoard's HPARAMS of a run: what its `settings` are, which `metrics` (tags of scalars) it is
/// measured by, and that it began at `time`.
pub fn hparams(settings: &[(String, Value)], metrics: &[&str], time: f64) -> [Message; 2] {
    let mut experiment = Message::default().double(3, time);
    let mut start = Message::default();
    for (name, value) in settings {
        // DATA_TYPE_STRING, _BOOL, _FLOAT64; and a google.protobuf.Value.
        let (kind, value) = match value {
            Value::Null => continue,
            Value::Bool(value) => (2, Message::default().uint(4, u64::from(*value))),
            Value::Number(value) => {
                let value = value.as_f64().unwrap_or(f64::NAN);
                (3, Message::default().double(2, value))
            }
            Value::String(value) => (1, Message::default().bytes(3, value.as_bytes())),
            other => (1, Message::default().bytes(3, other.to_string().as_bytes())),
        };
        let info = Message::default().bytes(1, name.as_bytes()).uint(4, kind);
        experiment = experiment.message(4, info);
        let entry = Message::default()
            .bytes(1, name.as_bytes())
            .message(2, value);
        start = start.message(1, entry);
    }
    for metric in metrics {
        let name = Message::default().bytes(2, metric.as_bytes());
        experiment = experiment.message(5, Message::default().message(1, name));
    }
    let start = start.double(5, time);
    [
        of_hparams("_hparams_/experiment", 2, experiment),
        of_hparams("_hparams_/session_start_info", 3, start),
    ]
}

/// A `Summary` that tells HPARAMS that a run ended at `time`, in good order.
pub fn ended(time: f64) -> Message {
    let info = Message::default().uint(1, 1).double(2, time);
    of_hparams("_hparams_/session_end_info", 4, info)
}

/// `HParamsPluginData` with one field.
fn of_hparams(tag: &str, field: u64, content: Message) -> Message {
    let data = Message::default().message(field, content);
    // No numbers, of shape [0]: the plugin reads its metadata alone.
    let shape = Message::default().message(2, Message::default());
    let nothing = Message::default().uint(1, 1).message(2, shape);
    with_plugin(tag, "hparams", &data.0, nothing)
}

/// A `Summary` of `tensor`, which a plugin shows.
fn with_plugin(tag: &str, plugin: &str, content: &[u8], tensor: Message) -> Message {
    let data = Message::default().bytes(1, plugin.as_bytes());
    let data = match content.is_empty() {
        true => data,
        false => data.bytes(2, content),
    };
    // DATA_CLASS_TENSOR.
    let metadata = Message::default().message(1, data).uint(4, 2);
    let value = Message::default()
        .bytes(1, tag.as_bytes())
        .message(8, tensor)
        .message(9, metadata);
    Message::default().message(1, value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::hex::hex;
    use crate::train::tensorboard::record::framed;

    /// What TensorBoard 2's own generated classes write for the same messages.
    #[test]
    fn messages_are_those_of_tensorboard() {
        // Length 24, its checksum; wall_time 1.5, file_version; checksum.
        assert_eq!(
            hex(&framed(&event(1.5, 0, Body::Version))),
            "1800000000000000a37f4b22\
             09000000000000f83f1a0d627261696e2e4576656e743a32\
             2a28646c"
        );
        assert_eq!(
            hex(&event(2.25, 101, Body::Start)),
            "09000000000000024010653a020801"
        );
        let values = [
            ("loss/g".to_string(), 0.5),
            ("loss/d_real".to_string(), -3.0),
        ];
        assert_eq!(
            hex(&event(2.25, 300, Body::Summary(scalars(&values)))),
            "09000000000000024010ac022a230a0d0a066c6f73732f67150000003f0a120a0b6c6f73732f645f7265616c15000040c0"
        );
        assert_eq!(
            hex(&image("samples", b"png", 300, 4).0),
            "0a170a0773616d706c6573220c080410ac0218032203706e67"
        );
        assert_eq!(
            hex(&text("alarms", "**a**").0),
            "0a250a06616c61726d73420f080712041202080142052a2a612a2a4a0a0a060a04746578742002"
        );
        // What has no value is no setting.
        let settings = [
            ("crop".to_string(), Value::Null),
            ("lr_g".to_string(), json!(2e-4)),
        ];
        let [experiment, start] = hparams(&settings, &["loss/g"], 2.5);
        assert_eq!(
            hex(&experiment.0),
            "0a500a145f68706172616d735f2f6578706572696d656e7442060801120212004a300a2c0a0768706172616d731221121f1900\
             0000000000044022080a046c725f6720032a0a0a0812066c6f73732f672002"
        );
        assert_eq!(
            hex(&start.0),
            "0a550a1c5f68706172616d735f2f73657373696f6e5f73746172745f696e666f42060801120212004a2d0a290a076870617261\
             6d73121e1a1c0a110a046c725f671209112d431cebe2362a3f2900000000000004402002"
        );
        assert_eq!(
            hex(&ended(2.5).0),
            "0a420a1a5f68706172616d735f2f73657373696f6e5f656e645f696e666f42060801120212004a1c0a180a0768706172616d73\
             120d220b08011100000000000004402002"
        );
    }
}
