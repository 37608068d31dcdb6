//! GGUF files put together by hand.

/// Name, extents, number of the type, bytes.
pub type HandTensor = (String, Vec<u64>, u32, Vec<u8>);

/// A GGUF file put together by hand: pairs as they are, tensors with their bytes.
pub struct Hand {
    /// Keys with their values.
    pub pairs: Vec<Vec<u8>>,
    /// Names, extents, types and bytes.
    pub tensors: Vec<HandTensor>,
    /// What tensors begin at multiples of.
    pub alignment: usize,
}

/// A text with its length.
pub fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A key with type and value.
pub fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(key), kind.to_le_bytes().as_slice(), value].concat()
}

/// A list of elements of a type.
pub fn list(kind: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [kind.to_le_bytes().as_slice(), &count.to_le_bytes(), elements].concat()
}

impl Hand {
    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.pairs.len() as u64).to_le_bytes());
        bytes.extend(self.pairs.concat());
        let mut at = 0;
        for (name, extents, kind, data) in &self.tensors {
            bytes.extend(text(name));
            bytes.extend((extents.len() as u32).to_le_bytes());
            for extent in extents {
                bytes.extend(extent.to_le_bytes());
            }
            bytes.extend(kind.to_le_bytes());
            bytes.extend((at as u64).to_le_bytes());
            at += data.len().next_multiple_of(self.alignment);
        }
        for (_, _, _, data) in &self.tensors {
            bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
            bytes.extend(data);
        }
        bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        bytes
    }
}
