//! How much memory a file's messages take once decoded, found without decoding them.
//!
//! An empty message takes two bytes in a file and hundreds in memory, so a small file could ask for very much. This
//! walks the wire format by the few fields that hold messages or lists, and counts.

use super::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};

/// What a message may hold, as far as memory is concerned.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Sparse,
    /// Names and shapes, by their size.
    Other,
    /// Functions and training graphs, by their size: no network needs many.
    Unread,
}

/// Messages nest no deeper in prost.
const MAX_DEPTH: usize = 100;

/// Bytes of memory that the model in `bytes` takes decoded, about. `None` where the wire format is broken, which the
/// decoder describes better.
pub(super) fn weigh(bytes: &[u8]) -> Option<usize> {
    Message::Model.weigh(bytes, 0)
}

impl Message {
    /// The message in a field of this one, and the memory of one occurrence; `None` for text and raw data, which take
    /// as many bytes as in the file.
    fn field(self, number: u64) -> Option<(Self, usize)> {
        const SMALL: usize = 128;
        let small = Some((Self::Other, SMALL));
        match (self, number) {
            (Self::Model, 7) => Some((Self::Graph, size_of::<GraphProto>())),
            (Self::Model, 8 | 14 | 26) => small,
            (Self::Model, 20 | 25) => Some((Self::Unread, SMALL)),
            (Self::Graph, 1) => Some((Self::Node, size_of::<NodeProto>())),
            (Self::Graph, 5) => Some((Self::Tensor, size_of::<TensorProto>())),
            (Self::Graph, 11..=13) => Some((Self::Other, size_of::<ValueInfoProto>())),
            (Self::Graph, 14 | 16) => small,
            (Self::Graph, 15) => Some((Self::Sparse, 2 * size_of::<TensorProto>())),
            (Self::Node, 5) => Some((Self::Attribute, size_of::<AttributeProto>())),
            (Self::Node, 9 | 10) => small,
            (Self::Attribute, 5 | 10) => Some((Self::Tensor, size_of::<TensorProto>())),
            (Self::Attribute, 6 | 11) => Some((Self::Graph, size_of::<GraphProto>())),
            (Self::Attribute, 22 | 23) => Some((Self::Sparse, 2 * size_of::<TensorProto>())),
            (Self::Attribute, 14 | 15) => small,
            (Self::Sparse, 1 | 2) => Some((Self::Tensor, 0)),
            (Self::Tensor, 3 | 13 | 16) => small,
            _ => None,
        }
    }

    /// Whether a field is a list of numbers that varints can pack eight times as tight as memory holds them.
    fn packs(self, number: u64) -> bool {
        matches!((self, number), (Self::Attribute, 8) | (Self::Tensor, 1 | 5 | 7 | 11) | (Self::Sparse, 3))
    }

    fn weigh(self, mut bytes: &[u8], depth: usize) -> Option<usize> {
        /// Of a text in a list.
        const TEXT: usize = size_of::<String>();
        let mut total = 0usize;
        while !bytes.is_empty() {
            let tag = varint(&mut bytes)?;
            let number = tag >> 3;
            match tag & 7 {
                0 => {
                    varint(&mut bytes)?;
                    total = total.saturating_add(if self.packs(number) { 8 } else { 0 });
                }
                1 => bytes = bytes.get(8..)?,
                5 => bytes = bytes.get(4..)?,
                2 => {
                    let len = usize::try_from(varint(&mut bytes)?).ok()?;
                    let (content, rest) = bytes.split_at_checked(len)?;
                    bytes = rest;
                    let weight = match self.field(number) {
                        Some((Self::Other, own)) => own.saturating_add(len.saturating_mul(64)),
                        Some((message, own)) if depth < MAX_DEPTH && message != Self::Unread => {
                            own.saturating_add(message.weigh(content, depth + 1)?)
                        }
                        Some((_, own)) => own.saturating_add(len.saturating_mul(256)),
                        None if self.packs(number) => len.saturating_mul(8),
                        None => len.saturating_add(TEXT),
                    };
                    total = total.saturating_add(weight);
                }
                _ => return None,
            }
        }
        Some(total)
    }
}

/// Takes one varint of at most ten bytes.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for k in 0..10 {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (7 * k);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
