//! A reader of Python pickles that hold a state dict and nothing else.
//!
//! Python's pickle is a program for a stack machine. This interpreter knows the instructions and the
//! names that a dict of tensors is written with (protocol 2, PyTorch's) and refuses any other by name.
//! A name only ever selects one of our own cases, so nothing of the file is executed. Objects live in
//! one list and refer to one another by index: a hostile file can neither nest deep enough to exhaust
//! the stack nor make more objects than it has bytes. What an instruction copies of an object is counted too, since a few
//! bytes can name one large object again and again.

use std::collections::HashMap;

use kiln_core::{Error, Result};

use crate::element::Element;

/// A value on the machine's stack.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    None,
    Bool(bool),
    /// Wide enough for the ten bytes of PyTorch's magic number.
    Int(i128),
    /// A number with a point, which nothing here needs.
    Float,
    Text(&'a str),
    Global(Global),
    /// Index of an [`Object`].
    Object(usize),
}

/// The names that a state dict asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Element),
    /// `argparse.Namespace`, the settings that trainers save beside their networks. Nothing of it is kept.
    Namespace,
}

/// What values refer to.
#[derive(Debug)]
enum Object<'a> {
    /// A tuple or a list.
    Items(Vec<Value<'a>>),
    /// A dict, in the order it was filled.
    Pairs(Vec<(Value<'a>, Value<'a>)>),
    Storage(Storage<'a>),
    Tensor(Tensor<'a>),
}

/// Numbers that lie elsewhere in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Storage<'a> {
    pub(crate) element: Element,
    /// The name under which the file keeps the numbers.
    pub(crate) key: &'a str,
    /// How many numbers the file keeps under that name.
    pub(crate) len: usize,
    /// The first of them that belongs to this storage.
    first: usize,
}

/// A view of a storage, in elements.
#[derive(Clone, Debug)]
pub(crate) struct Tensor<'a> {
    pub(crate) storage: Storage<'a>,
    pub(crate) offset: usize,
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<usize>,
}

/// What one pickle said.
#[derive(Debug)]
pub(crate) struct Unpickled<'a> {
    root: Value<'a>,
    objects: Vec<Object<'a>>,
    /// The first byte after it.
    pub(crate) end: usize,
}

impl<'a> Unpickled<'a> {
    /// The value, if it is a number.
    pub(crate) fn int(&self) -> Option<i128> {
        match self.root {
            Value::Int(value) => Some(value),
            _ => None,
        }
    }

    /// What a dict has under a name.
    pub(crate) fn field(&self, name: &str) -> Option<Value<'a>> {
        let Value::Object(at) = self.root else { return None };
        match self.objects.get(at)? {
            Object::Pairs(pairs) => pairs.iter().find(|(k, _)| *k == Value::Text(name)).map(|(_, v)| *v),
            _ => None,
        }
    }

    /// The texts of a list.
    pub(crate) fn texts(&self) -> Result<Vec<&'a str>> {
        match self.root {
            Value::Object(at) => match self.objects.get(at) {
                Some(Object::Items(items)) => items.iter().map(|v| text(*v)).collect(),
                _ => Err(Error::new("a list of names is missing")),
            },
            _ => Err(Error::new("a list of names is missing")),
        }
    }

    /// Name and tensor of every entry of a state dict.
    pub(crate) fn tensors(&self) -> Result<Vec<(&'a str, &Tensor<'a>)>> {
        let object = |value| match value {
            Value::Object(at) => self.objects.get(at),
            _ => None,
        };
        let Some(Object::Pairs(pairs)) = object(self.root) else {
            return Err(Error::new("it holds no dict of tensors; save a model's state_dict()"));
        };
        let entry = |(key, value): &(Value<'a>, Value<'a>)| {
            let name = text(*key)?;
            match object(*value) {
                Some(Object::Tensor(tensor)) => Ok((name, tensor)),
                _ => Err(Error::new(format!("its entry `{name}` is no tensor; save a model's state_dict() alone"))),
            }
        };
        pairs.iter().map(entry).collect()
    }

    /// Name and tensor of every entry of a dict, and `dict.name` of every tensor of the dicts in it; what else there is is
    /// left out. Such is a trainer's checkpoint: several networks, their optimisers, its settings.
    pub(crate) fn parts(&self) -> Result<Vec<(String, &Tensor<'a>)>> {
        let object = |value: &Value<'a>| match value {
            Value::Object(at) => self.objects.get(*at),
            _ => None,
        };
        let Some(Object::Pairs(pairs)) = object(&self.root) else {
            return Err(Error::new("it holds no dict of tensors; save a model's state_dict()"));
        };
        let mut found = Vec::new();
        for (key, value) in pairs {
            let Value::Text(name) = key else { continue };
            match object(value) {
                Some(Object::Tensor(tensor)) => found.push((name.to_string(), tensor)),
                Some(Object::Pairs(inner)) => {
                    for (key, value) in inner {
                        if let (Value::Text(inside), Some(Object::Tensor(tensor))) = (key, object(value)) {
                            found.push((format!("{name}.{inside}"), tensor));
                        }
                        // Each takes bytes to write, unless one dict is there again and again.
                        if found.len() > self.end {
                            return Err(confused());
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// Every storage that the pickle names, whatever uses it.
    pub(crate) fn storages(&self) -> impl Iterator<Item = &Storage<'a>> {
        self.objects.iter().filter_map(|object| match object {
            Object::Storage(storage) => Some(storage),
            _ => None,
        })
    }
}

fn text(value: Value<'_>) -> Result<&str> {
    match value {
        Value::Text(text) => Ok(text),
        other => Err(Error::new(format!("a name is expected where there is {other:?}"))),
    }
}

fn size(value: Value<'_>) -> Result<usize> {
    match value {
        Value::Int(v) => usize::try_from(v).map_err(|_| Error::new(format!("{v} is no size"))),
        other => Err(Error::new(format!("a size is expected where there is {other:?}"))),
    }
}

/// Our case for a Python name.
fn global(module: &str, name: &str) -> Result<Global> {
    Ok(match (module, name) {
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
        ("argparse", "Namespace") => Global::Namespace,
        ("torch", storage) if storage.ends_with("Storage") => Global::Storage(match storage {
            "FloatStorage" => Element::F32,
            "DoubleStorage" => Element::F64,
            "HalfStorage" => Element::F16,
            "BFloat16Storage" => Element::Bf16,
            "LongStorage" => Element::I64,
            "IntStorage" => Element::I32,
            "ShortStorage" => Element::I16,
            "CharStorage" => Element::I8,
            "ByteStorage" => Element::U8,
            "BoolStorage" => Element::Bool,
            other => return Err(Error::new(format!("numbers of type torch.{other} are not known"))),
        }),
        _ => {
            return Err(Error::new(format!(
                "it asks for `{module}.{name}`, which no state dict needs; it was not run, and the file is not read"
            )));
        }
    })
}

/// Interprets the pickle at the beginning of `bytes`.
///
/// # Errors
/// An instruction or a name that no state dict needs, or an end before the end.
pub(crate) fn unpickle(bytes: &[u8]) -> Result<Unpickled<'_>> {
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        objects: Vec::new(),
        // Each is written at most once, and takes a byte or more to write.
        copies: bytes.len(),
    };
    loop {
        if let Some(root) = machine.step()? {
            return Ok(Unpickled { root, objects: machine.objects, end: machine.at });
        }
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    objects: Vec<Object<'a>>,
    /// How many values may still be copied out of objects.
    copies: usize,
}

/// The most dimensions of a tensor.
const DIMENSIONS: usize = 16;

impl<'a> Machine<'a> {
    /// One instruction; the result after the last.
    fn step(&mut self) -> Result<Option<Value<'a>>> {
        match self.byte()? {
            // PROTO
            0x80 => match self.byte()? {
                0..=2 => {}
                version => {
                    return Err(Error::new(format!(
                        "it is a pickle of protocol {version}; save it with PyTorch's own, 2"
                    )));
                }
            },
            // STOP
            b'.' => return self.pop().map(Some),
            // MARK
            b'(' => self.marks.push(self.stack.len()),
            // NONE, NEWTRUE, NEWFALSE
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            // BININT, BININT1, BININT2, LONG1
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.stack.push(Value::Int(value.into()));
            }
            b'K' => {
                let value = self.byte()?;
                self.stack.push(Value::Int(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.stack.push(Value::Int(value.into()));
            }
            0x8a => {
                let value = self.long()?;
                self.stack.push(Value::Int(value));
            }
            // BINFLOAT
            b'G' => {
                self.array::<8>()?;
                self.stack.push(Value::Float);
            }
            // BINUNICODE, BINSTRING, SHORT_BINSTRING (Python 2's str)
            b'X' | b'T' => {
                let len = u32::from_le_bytes(self.array()?);
                self.text(len as usize)?;
            }
            b'U' => {
                let len = self.byte()?;
                self.text(len.into())?;
            }
            // EMPTY_TUPLE and EMPTY_LIST, TUPLE, TUPLE1, TUPLE2, TUPLE3
            b')' | b']' => self.make(Object::Items(Vec::new())),
            b't' => {
                let items = self.since_mark()?;
                self.make(Object::Items(items));
            }
            count @ 0x85..=0x87 => {
                let items = self.top(usize::from(count - 0x84))?;
                self.make(Object::Items(items));
            }
            // EMPTY_DICT
            b'}' => self.make(Object::Pairs(Vec::new())),
            // APPEND, APPENDS
            b'a' => {
                let items = self.top(1)?;
                self.append(items)?;
            }
            b'e' => {
                let items = self.since_mark()?;
                self.append(items)?;
            }
            // SETITEM, SETITEMS
            b's' => {
                let items = self.top(2)?;
                self.set(&items)?;
            }
            b'u' => {
                let items = self.since_mark()?;
                self.set(&items)?;
            }
            // BINPUT, LONG_BINPUT, BINGET, LONG_BINGET
            b'q' => {
                let key = self.byte()?;
                self.remember(key.into())?;
            }
            b'r' => {
                let key = u32::from_le_bytes(self.array()?);
                self.remember(key)?;
            }
            b'h' => {
                let key = self.byte()?;
                self.recall(key.into())?;
            }
            b'j' => {
                let key = u32::from_le_bytes(self.array()?);
                self.recall(key)?;
            }
            // GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.stack.push(Value::Global(global(module, name)?));
            }
            // NEWOBJ of a Namespace, whose attributes BUILD will drop
            0x81 if self.is_new_namespace() => {
                self.top(2)?;
                self.make(Object::Pairs(Vec::new()));
            }
            // REDUCE, BUILD, BINPERSID
            b'R' => self.call()?,
            b'b' => self.build()?,
            b'Q' => self.storage()?,
            other => {
                let at = self.at - 1;
                return Err(Error::new(format!(
                    "its pickle instruction {other:#04x} at {at} is none that a state dict needs"
                )));
            }
        }
        Ok(None)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.get(..len));
        let taken = taken.ok_or_else(|| Error::new("its pickle is cut off; copy or download the file again"))?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take(N)?;
        Ok(std::array::from_fn(|i| bytes[i]))
    }

    fn byte(&mut self) -> Result<u8> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    /// A little-endian integer of as many bytes as the first says.
    fn long(&mut self) -> Result<i128> {
        let len = usize::from(self.byte()?);
        if len > 16 {
            return Err(Error::new(format!("it holds an integer of {len} bytes")));
        }
        let bytes = self.take(len)?;
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 16];
        wide[..len].copy_from_slice(bytes);
        Ok(i128::from_le_bytes(wide))
    }

    fn text(&mut self, len: usize) -> Result<()> {
        let text = utf8(self.take(len)?)?;
        self.stack.push(Value::Text(text));
        Ok(())
    }

    /// Up to a line break, which is consumed.
    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
        let line = utf8(self.take(len)?)?;
        self.byte()?;
        Ok(line)
    }

    fn make(&mut self, object: Object<'a>) {
        self.stack.push(Value::Object(self.objects.len()));
        self.objects.push(object);
    }

    fn pop(&mut self) -> Result<Value<'a>> {
        // What lies below a mark belongs to an unfinished collection.
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(confused());
        }
        self.stack.pop().ok_or_else(confused)
    }

    fn top(&mut self, count: usize) -> Result<Vec<Value<'a>>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(count) {
            Some(start) if start >= floor => Ok(self.stack.split_off(start)),
            _ => Err(confused()),
        }
    }

    fn since_mark(&mut self) -> Result<Vec<Value<'a>>> {
        let mark = self.marks.pop().ok_or_else(confused)?;
        Ok(self.stack.split_off(mark))
    }

    /// The object that the topmost value refers to.
    fn under(&mut self) -> Result<&mut Object<'a>> {
        match self.stack.last() {
            Some(Value::Object(at)) => self.objects.get_mut(*at).ok_or_else(confused),
            _ => Err(confused()),
        }
    }

    fn append(&mut self, new: Vec<Value<'a>>) -> Result<()> {
        match self.under()? {
            Object::Items(items) => items.extend(new),
            _ => return Err(confused()),
        }
        Ok(())
    }

    fn set(&mut self, new: &[Value<'a>]) -> Result<()> {
        if !new.len().is_multiple_of(2) {
            return Err(confused());
        }
        match self.under()? {
            Object::Pairs(pairs) => pairs.extend(new.chunks_exact(2).map(|p| (p[0], p[1]))),
            _ => return Err(confused()),
        }
        Ok(())
    }

    fn remember(&mut self, key: u32) -> Result<()> {
        let value = *self.stack.last().ok_or_else(confused)?;
        self.memo.insert(key, value);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<()> {
        let value = *self.memo.get(&key).ok_or_else(confused)?;
        self.stack.push(value);
        Ok(())
    }

    fn items(&self, value: Value<'a>) -> Result<&[Value<'a>]> {
        match value {
            Value::Object(at) => match self.objects.get(at) {
                Some(Object::Items(items)) => Ok(items),
                _ => Err(confused()),
            },
            _ => Err(confused()),
        }
    }

    /// Whether a Namespace without arguments is on the stack.
    fn is_new_namespace(&self) -> bool {
        let [.., Value::Global(Global::Namespace), arguments] = self.stack[..] else { return false };
        self.items(arguments).is_ok_and(<[_]>::is_empty)
    }

    /// REDUCE: our case of the function on the stack, with its arguments.
    fn call(&mut self) -> Result<()> {
        let arguments = self.pop()?;
        let function = self.pop()?;
        let made = match (function, self.items(arguments)?) {
            (Value::Global(Global::OrderedDict), []) => Object::Pairs(Vec::new()),
            // Python 2 writes the pairs as the argument.
            (Value::Global(Global::OrderedDict), &[list]) => {
                let pair = |value: &Value<'a>| match *self.items(*value)? {
                    [key, value] => Ok((key, value)),
                    _ => Err(confused()),
                };
                let pairs: Vec<_> = self.items(list)?.iter().map(pair).collect::<Result<_>>()?;
                self.copies = self.copies.checked_sub(pairs.len()).ok_or_else(confused)?;
                Object::Pairs(pairs)
            }
            (Value::Global(Global::RebuildTensor), &[storage, offset, shape, strides, ..]) => {
                Object::Tensor(self.tensor(storage, offset, shape, strides)?)
            }
            (Value::Global(Global::RebuildParameter), &[Value::Object(data), ..]) => match self.objects.get(data) {
                Some(Object::Tensor(tensor)) => Object::Tensor(tensor.clone()),
                _ => return Err(confused()),
            },
            _ => return Err(confused()),
        };
        self.make(made);
        Ok(())
    }

    fn tensor(
        &self,
        storage: Value<'a>,
        offset: Value<'a>,
        shape: Value<'a>,
        strides: Value<'a>,
    ) -> Result<Tensor<'a>> {
        let Value::Object(at) = storage else { return Err(confused()) };
        let Some(Object::Storage(storage)) = self.objects.get(at) else { return Err(confused()) };
        let sizes = |value| -> Result<Vec<usize>> {
            match self.items(value)? {
                items if items.len() <= DIMENSIONS => items.iter().map(|v| size(*v)).collect(),
                items => Err(Error::new(format!("a tensor of {} dimensions", items.len()))),
            }
        };
        let offset = size(offset)?.checked_add(storage.first).ok_or_else(confused)?;
        Ok(Tensor { storage: *storage, offset, shape: sizes(shape)?, strides: sizes(strides)? })
    }

    /// BUILD: gives an object its attributes. An ordered dict has `_metadata`, which nothing here needs.
    fn build(&mut self) -> Result<()> {
        self.pop()?;
        match self.under()? {
            Object::Pairs(_) => Ok(()),
            _ => Err(confused()),
        }
    }

    /// BINPERSID: `("storage", type, key, device, length)` and in older files a view of it,
    /// `(key, first, length)` or nothing.
    fn storage(&mut self) -> Result<()> {
        let id = self.pop()?;
        let storage = match *self.items(id)? {
            [Value::Text("storage"), Value::Global(Global::Storage(element)), key, _, len, ref view @ ..] => {
                let first = match *view {
                    [] | [Value::None] => 0,
                    [view] => match *self.items(view)? {
                        [_, first, _] => size(first)?,
                        _ => return Err(confused()),
                    },
                    _ => return Err(confused()),
                };
                Storage { element, key: text(key)?, len: size(len)?, first }
            }
            _ => return Err(confused()),
        };
        self.make(Object::Storage(storage));
        Ok(())
    }
}

fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| Error::new("its pickle holds a name that is no UTF-8 text"))
}

fn confused() -> Error {
    Error::new("its pickle does not describe a dict of tensors; it is damaged, or was not written by torch.save")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn integers_have_their_sign_and_length() {
        let int = |bytes: &[u8]| unpickle(bytes).unwrap().int();
        assert_eq!(int(b"\x80\x02\x8a\x00."), Some(0));
        assert_eq!(int(b"\x8a\x01\xff."), Some(-1));
        assert_eq!(int(b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."), Some(0x1950_a86a_20f9_469c_fc6c));
        assert_eq!(int(b"J\xfe\xff\xff\xff."), Some(-2));
        assert!(unpickle(b"\x8a\x11").unwrap_err().to_string().contains("17 bytes"));
    }

    #[test]
    fn python_2_wrote_ordered_dicts_as_lists_of_pairs() {
        // OrderedDict([["a", 7]]) with `str` names.
        let said = unpickle(b"\x80\x02ccollections\nOrderedDict\n](]U\x01aK\x07eea\x85R.").unwrap_err();
        assert!(said.to_string().contains("does not describe"), "{said}");
        let read = unpickle(b"\x80\x02ccollections\nOrderedDict\n](](U\x01aK\x07ee\x85R.").unwrap();
        assert_eq!(read.field("a"), Some(Value::Int(7)));
    }

    #[test]
    fn what_is_not_needed_is_refused_by_name() {
        let said = |bytes: &[u8]| unpickle(bytes).unwrap_err().to_string();
        assert!(said(b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R.").contains("`os.system`"));
        assert!(said(b"cbuiltins\neval\n.").contains("`builtins.eval`"));
        assert!(said(b"ctorch\nComplexFloatStorage\n.").contains("torch.ComplexFloatStorage"));
        // INST, OBJ and NEWOBJ make objects in other ways.
        assert!(said(b"(ios\nsystem\n.").contains("instruction 0x69 at 1"));
        assert!(said(b"(o.").contains("0x6f"));
        assert!(said(b"\x81.").contains("0x81"));
        assert!(said(b"\x80\x04.").contains("protocol 4"));
    }

    #[test]
    fn a_checkpoint_has_parts() {
        // {"e": {"a": a tensor, 1: None}, "args": Namespace(lr=0.5), "p": 0.5}
        let tensor =
            b"ctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x01tQK\x00))tR";
        let bytes = [
            b"}(U\x01e}(U\x01a".as_slice(),
            tensor,
            b"K\x01NuU\x04argscargparse\nNamespace\n)\x81}U\x02lrG?\xe0\0\0\0\0\0\0sbU\x01pG?\xe0\0\0\0\0\0\0u.",
        ]
        .concat();
        let read = unpickle(&bytes).unwrap();
        assert_eq!(read.parts().unwrap().into_iter().map(|(name, _)| name).collect::<Vec<_>>(), ["e.a"]);
        assert_eq!(read.storages().map(|storage| storage.key).collect::<Vec<_>>(), ["0"]);
        assert!(read.tensors().unwrap_err().to_string().contains("`e` is no tensor"));
        // One dict under many names is not read as often.
        let inner = [b"}(".as_slice(), &[b"U\x02ab".as_slice(), tensor].concat().repeat(30), b"uq\x01"].concat();
        let many: Vec<u8> =
            (0..400u16).flat_map(|i| [b"U\x02".as_slice(), &i.to_le_bytes(), b"h\x01"].concat()).collect();
        let many = many.into_iter().map(|b| b & 0x7f).collect::<Vec<_>>();
        let bytes = [b"}(U\x01x".as_slice(), &inner, &many, b"u."].concat();
        assert!(unpickle(&bytes).unwrap().parts().is_err());
    }

    #[test]
    fn nonsense_is_an_error() {
        for bytes in [
            &b""[..],
            b".",
            b"t.",
            b"(.",
            b"N(.",
            b"a.",
            b"Na.",
            b"]N}s.",
            b"q\0.",
            b"h\0.",
            b"R.",
            b"NNR.",
            b")b.",
            b"NQ.",
            b")Q.",
            b"K",
            b"X\xff\xff\xff\xff",
            b"cos",
            b"cos\n",
            b"N)\x86R.",
            b"X\x01\0\0\0\xff.",
            b"(N(s",
        ] {
            assert!(unpickle(bytes).is_err(), "{bytes:?}");
        }
        // A million nested tuples are no deeper than one.
        let mut deep = b"N".to_vec();
        deep.extend(std::iter::repeat_n(0x85, 1_000_000));
        deep.push(b'.');
        assert!(unpickle(&deep).unwrap().tensors().is_err());
    }

    #[test]
    fn what_is_named_again_and_again_is_not_copied_as_often() {
        // A list of 1,000 pairs, remembered, and a dict made of it again and again: ten bytes for each.
        let list = [b"](".as_slice(), &b"NN\x86".repeat(1000), b"eq\x01"].concat();
        let again = b"h\x00h\x01\x85R".repeat(1000);
        let bytes = [b"ccollections\nOrderedDict\nq\x00".as_slice(), &list, &again, b"."].concat();
        assert!(unpickle(&bytes).unwrap_err().to_string().contains("does not describe"));
        // A shape of 1,000 sides.
        let shape = [b"(".as_slice(), &b"K\x01".repeat(1000), b"t"].concat();
        let bytes = [
            b"ctorch._utils\n_rebuild_tensor_v2\n(".as_slice(),
            b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x01tQK\x00",
            &shape,
            &shape,
            b"tR.",
        ]
        .concat();
        assert!(unpickle(&bytes).unwrap_err().to_string().contains("1000 dimensions"));
    }
}
