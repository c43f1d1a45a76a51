//! Reading and writing the wire format of Protocol Buffers (protobuf.dev, "Encoding"), as far as the messages here go: fields that are
//! not asked for are passed over.

/// A message that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer is no message of containerd's interface")]
pub struct Malformed;

/// A field's value, by how it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// A varint.
    Number(u64),
    /// Text, bytes, or a message in the message.
    Bytes(&'a [u8]),
    /// One of fixed size, which no field here has.
    Fixed,
}

/// The fields of a message, in their order.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Of this message.
    #[must_use]
    pub const fn of(message: &'a [u8]) -> Self {
        Self(message)
    }

    /// The value of field `number` that is a text, bytes or a message; of several the last, as the format has it. Absent: empty.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn bytes(self, number: u64) -> Result<&'a [u8], Malformed> {
        let mut found: &[u8] = &[];
        for field in self {
            if let (tag, Value::Bytes(bytes)) = field?
                && tag == number
            {
                found = bytes;
            }
        }
        Ok(found)
    }

    /// The message in field `number`.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn message(self, number: u64) -> Result<Self, Malformed> {
        self.bytes(number).map(Self)
    }

    /// The text in field `number`, `None` where that is empty or absent, which the format does not tell apart.
    ///
    /// # Errors
    /// [`Malformed`], also of a text that is not UTF-8.
    pub fn text(self, number: u64) -> Result<Option<&'a str>, Malformed> {
        let text = std::str::from_utf8(self.bytes(number)?).map_err(|_| Malformed)?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// The number in field `number`; absent: 0.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn number(self, number: u64) -> Result<u64, Malformed> {
        let mut found = 0;
        for field in self {
            if let (tag, Value::Number(value)) = field?
                && tag == number
            {
                found = value;
            }
        }
        Ok(found)
    }

    fn next_field(&mut self) -> Result<(u64, Value<'a>), Malformed> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err(Malformed),
        };
        Ok((key >> 3, value))
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value: u64 = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first().ok_or(Malformed)?;
            self.0 = rest;
            value |= u64::from(first & 0x7F) << shift;
            if first & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.next_field();
        if field.is_err() {
            // nothing that follows means anything
            self.0 = &[];
        }
        Some(field)
    }
}

/// Field `number`, below 16, of a text, bytes or a message.
#[must_use]
pub fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![(number & 0x0F) << 3 | 2];
    let mut length = content.len();
    while length > 0x7F {
        bytes.push(u8::try_from(length & 0x7F).unwrap_or(0x7F) | 0x80);
        length >>= 7;
    }
    bytes.push(u8::try_from(length).unwrap_or(0x7F));
    bytes.extend_from_slice(content);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_reads_back() {
        for length in [0, 1, 127, 128, 300, 20_000] {
            let text = "x".repeat(length);
            let message = field(1, text.as_bytes());
            assert_eq!(Fields::of(&message).text(1), Ok(Some(text.as_str()).filter(|text| !text.is_empty())));
            assert_eq!(Fields::of(&message).text(2), Ok(None));
        }
    }

    #[test]
    fn fields_of_every_kind_are_passed_over_and_the_last_of_several_holds() {
        let mut message = vec![0x08, 0x96, 0x01, 0x11, 1, 2, 3, 4, 5, 6, 7, 8, 0x1D, 1, 2, 3, 4];
        message.extend(field(1, b"first"));
        message.extend(field(1, b"last"));
        assert_eq!(Fields::of(&message).text(1), Ok(Some("last")));
        assert_eq!(Fields::of(&message).number(1), Ok(150));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bytes in [
            &[0x0A_u8][..],
            &[0x0A, 5, b'x'],
            &[0x80],
            &[0xFF; 11],
            &[0x0B],
            &[0x0C],
            &[0x11, 1],
            &[0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
        ] {
            assert_eq!(Fields::of(bytes).bytes(1), Err(Malformed), "{bytes:x?}");
        }
        assert_eq!(Fields::of(&[0x0A, 1, 0xFF]).text(1), Err(Malformed));
    }
}
