//! Overlays: mount(2) with their options, fsconfig(2).
//!
//! The upper layer was decided about as an object, and is handed on as that object. There are two ways. `FSCONFIG_SET_FD` takes
//! the descriptor itself (Linux 6.13, overlayfs; `O_PATH` will do), and is what a setting by fsconfig becomes. For the options of
//! mount(2) it will not do: the same layers by fsconfig, which takes no value of more than 255 bytes (fs/fsopen.c, EINVAL, seen on
//! 6.18), are not to be had where mount(2) takes a page, and nested container engines fill it with lower layers. So there the
//! helper calls mount(2) with the *number* of the descriptor as path, relative to its own `/proc/self/fd`, which leads to the
//! object on every kernel and gives every error that mount(2) gives. The difference is seen in `/proc/self/mountinfo` alone.
//!
//! The other layers are read and never written. Their paths stay text; a relative one is put below the number of the working
//! directory, and so are those of `workdir`, which overlayfs keeps its own files in. An absolute one is looked up from the root of
//! the mount namespace, whatever root the process has (chroot(2)).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::kernel::Errno;
use crate::kernel::broker::Configured;
use crate::kernel::broker::Mount;
use crate::kernel::broker::Operation as Deed;
use crate::kernel::broker::Part;
use crate::kernel::foreign_root::Base;
use crate::kernel::foreign_root::Follow;
use crate::supervise::argument::Argument;
use crate::supervise::broker::plan::Plan;
use crate::supervise::broker::plan::PlanOrError;
use crate::supervise::broker::plan::Planner;
use crate::supervise::broker::plan::fails;
use crate::supervise::broker::plan::fails_at_once;
use crate::supervise::broker::plan::handle;
use crate::supervise::broker::plan::perform;
use crate::supervise::broker::plan::word;
use crate::supervise::decode::SettingArgument;
use crate::supervise::layers;
use crate::supervise::layers::Setting;
use crate::supervise::target::TargetError;

/// Longest name or text of a setting (fs/fsopen.c: `strndup_user(…, 256)`, its NUL included).
const MAX_TEXT_BYTES: usize = 255;
/// Most upper layers named in one text; the last one counts.
const MAX_UPPER: usize = 8;
/// What is not in the helper's `/proc/self/fd`, where there are numbers only.
const NOWHERE: &[u8] = b"nowhere";
/// A number that no process has open.
const NO_DESCRIPTOR: &[u8] = b"2147483647";

/// Text for the helper, and the descriptors in it.
pub struct Written {
    /// The text.
    pub parts: Vec<Part>,
    /// What is to be handed to the helper.
    pub on: Vec<Arc<OwnedFd>>,
}

impl Written {
    /// Nothing yet; descriptors that go before those of the text.
    pub const fn after(on: Vec<Arc<OwnedFd>>) -> Self {
        Self { parts: Vec::new(), on }
    }

    fn text(&mut self, text: &[u8]) {
        self.parts.push(Part::Text(text.to_vec()));
    }

    fn number(&mut self, descriptor: Arc<OwnedFd>) {
        self.parts.push(Part::Number(self.on.len()));
        self.on.push(descriptor);
    }

    /// The options of a new overlay.
    pub fn options(&mut self, planner: &Planner<'_>, options: &[u8]) -> Result<(), TargetError> {
        let settings = layers::settings(options);
        // an LSM cuts its own options out at every comma, before overlayfs sees the rest: what is one text here may be two there
        let hides = |setting: &Setting<'_>| {
            setting.value.is_some_and(|value| contains(value, b",upperdir=") || contains(setting.key, b","))
        };
        let uppers = settings.iter().filter(|setting| setting.key == layers::UPPER);
        if settings.iter().any(hides) || uppers.count() > MAX_UPPER {
            return fails(Errno::INVAL);
        }
        for (position, setting) in settings.into_iter().enumerate() {
            if position > 0 {
                self.text(b",");
            }
            self.text(setting.key);
            let Some(value) = setting.value else { continue };
            self.text(b"=");
            self.value(planner, setting.key, value)?;
        }
        Ok(())
    }

    /// The options of another file system. Some name descriptors of the process by their numbers: `fd` of fuse and autofs, `rfdno` and
    /// `wfdno` of 9p (fs/fuse/inode.c, fs/autofs/inode.c, net/9p/trans_fd.c). The helper has copies of them, under other numbers.
    pub fn numbers(&mut self, planner: &Planner<'_>, options: &[u8]) -> Result<(), TargetError> {
        for (position, option) in options.split(|byte| *byte == b',').enumerate() {
            if position > 0 {
                self.text(b",");
            }
            let equals = option.iter().position(|byte| *byte == b'=').unwrap_or(option.len());
            let (key, value) = option.split_at(equals);
            let number = value.get(1..).and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<i32>().ok());
            match number.filter(|_| matches!(key, b"fd" | b"rfdno" | b"wfdno")) {
                None => self.text(option),
                Some(number) => {
                    self.text(key);
                    self.text(b"=");
                    match planner.target.descriptor(number) {
                        Ok(copy) => self.number(Arc::new(copy)),
                        Err(TargetError::Nowhere(Errno::BADF)) => self.text(NO_DESCRIPTOR),
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(())
    }

    fn value(&mut self, planner: &Planner<'_>, key: &[u8], value: &[u8]) -> Result<(), TargetError> {
        match key {
            // an empty one is EINVAL as it stands
            layers::UPPER if !value.is_empty() => match upper(planner, value)? {
                Some(layer) => self.number(layer),
                None => self.text(NOWHERE),
            },
            b"lowerdir" => {
                for (position, path) in layers::split(value, b':').into_iter().enumerate() {
                    if position > 0 {
                        self.text(b":");
                    }
                    self.path(planner, path)?;
                }
            }
            b"lowerdir+" | b"datadir+" | b"workdir" => self.path(planner, value)?,
            _ => self.text(value),
        }
        Ok(())
    }

    fn path(&mut self, planner: &Planner<'_>, path: &[u8]) -> Result<(), TargetError> {
        if !layers::unescaped(path).starts_with(b"/") && !path.is_empty() {
            let here = planner.target.object(Base::Cwd)?;
            let here = handle(&here)?;
            match self.on.iter().position(|held| Arc::ptr_eq(held, &here)) {
                Some(position) => self.parts.push(Part::Number(position)),
                None => self.number(here),
            }
            self.text(b"/");
        }
        self.text(path);
        Ok(())
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// The object that shall be an upper layer; `None` where nothing is.
fn upper(planner: &Planner<'_>, value: &[u8]) -> Result<Option<Arc<OwnedFd>>, TargetError> {
    let path = layers::unescaped(value);
    existing(planner.target.resolve(Base::Cwd, &path, Follow::Last).map(|place| Argument { asked: path, place }))
}

fn existing(argument: Result<Argument, TargetError>) -> Result<Option<Arc<OwnedFd>>, TargetError> {
    match argument {
        Ok(argument) => argument.place.object.as_ref().map(handle).transpose(),
        Err(TargetError::Nowhere(Errno::NOENT)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// fsconfig(2) of a value that leads to a file. A flag, a block of bytes and a command are let go: whatever is written over
/// their memory meanwhile, they stay what the command's number says, and name no layer (`ovl_parameter_spec`).
pub fn configure(planner: &Planner<'_>, context: i32, key: u64, value: SettingArgument) -> PlanOrError {
    if value == SettingArgument::Nothing {
        return Ok(Plan::LetGo);
    }
    let on = vec![Arc::new(planner.target.descriptor(context)?)];
    let key = text(planner, key)?;
    let is_upper = key == layers::UPPER;
    let (configured, on) = match value {
        SettingArgument::Text(pointer) => {
            let value = text(planner, pointer)?;
            let layer = if is_upper && !value.is_empty() { upper(planner, &value)? } else { None };
            if let Some(layer) = layer {
                (Configured::Layer, both(on, layer))
            } else {
                let mut written = Written::after(on);
                written.value(planner, &key, &value)?;
                (Configured::Text(written.parts), written.on)
            }
        }
        SettingArgument::Path(path) => match existing(Argument::read(planner.target, path))? {
            Some(object) => (Configured::Object, both(on, object)),
            None if path.empty_is_base || !planner.target.path(path.pointer)?.is_empty() => (Configured::Nowhere, on),
            None => return fails_at_once(Errno::NOENT),
        },
        // what was decided about is the object that the descriptor led to then
        SettingArgument::Descriptor(number) if is_upper => {
            let object = planner.target.object(Base::Descriptor(number))?;
            (Configured::Descriptor, both(on, handle(&object)?))
        }
        SettingArgument::Descriptor(number) => {
            (Configured::Descriptor, both(on, Arc::new(planner.target.descriptor(number)?)))
        }
        SettingArgument::Nothing => return Ok(Plan::LetGo),
    };
    perform(Deed::Mount(Mount::Configure { key, configured }), on)
}

fn both(mut on: Vec<Arc<OwnedFd>>, second: Arc<OwnedFd>) -> Vec<Arc<OwnedFd>> {
    on.push(second);
    on
}

fn text(planner: &Planner<'_>, pointer: u64) -> Result<Vec<u8>, TargetError> {
    match planner.target.path(pointer) {
        Ok(text) if text.len() <= MAX_TEXT_BYTES => Ok(text),
        Ok(_) | Err(TargetError::Unreadable { errno: Errno::NAMETOOLONG, .. }) => fails_at_once(Errno::INVAL),
        Err(error) => Err(error),
    }
}

/// What fsconfig(2) refuses by its numbers alone (fs/fsopen.c), of the commands that a helper carries out.
pub fn is_wrong_setting([context, command, key, value, auxiliary, _]: [u64; 6]) -> bool {
    const AT_FDCWD: i32 = -100;
    let auxiliary = word(auxiliary).cast_signed();
    let is_wrong = match word(command) {
        1 => key == 0 || value == 0 || auxiliary != 0,
        3 | 4 => key == 0 || value == 0 || (auxiliary != AT_FDCWD && auxiliary < 0),
        5 => key == 0 || value != 0 || auxiliary < 0,
        _ => return false,
    };
    is_wrong || word(context).cast_signed() < 0
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::fs::File;

    use super::*;
    use crate::kernel::foreign_root::Restrictions;
    use crate::model::attempt::ObjectId;
    use crate::supervise::decode::Request;
    use crate::supervise::decode::abi::Abi;
    use crate::supervise::decode::abi::Call;
    use crate::supervise::decode::decode;
    use crate::supervise::target::Object;
    use crate::supervise::target::ObjectKind;
    use crate::supervise::target::Place;
    use crate::supervise::target::Target;

    /// A process with texts in its memory; every path that does not say `missing` leads to one directory.
    struct Process {
        texts: HashMap<u64, &'static str>,
        directory: Arc<OwnedFd>,
        here: Arc<OwnedFd>,
    }

    impl Process {
        fn new(texts: &[(u64, &'static str)]) -> Self {
            let open = || Arc::new(File::open("/").expect("root").into());
            Self { texts: texts.iter().copied().collect(), directory: open(), here: open() }
        }

        fn object_of(handle: &Arc<OwnedFd>) -> Object {
            Object {
                id: ObjectId { device: 1, inode: 1 },
                kind: ObjectKind::Directory,
                likeness: None,
                handle: Some(Arc::clone(handle)),
            }
        }

        /// The plan of a call, in words.
        fn told(&self, call: Call, arguments: [u64; 6]) -> String {
            let number = Abi::X86_64.number(call).expect("number").cast_signed();
            let crate::supervise::decode::Decoded::Request(request) = decode(0xC000_003E, number, arguments) else {
                panic!("not decoded")
            };
            match self.plan(&request, arguments) {
                Ok(Plan::Perform { deed: Deed::Mount(mount), on, .. }) => match mount {
                    Mount::New { data: Some(parts), .. } => format!("{} on {}", joined(&parts), on.len()),
                    Mount::Configure { configured: Configured::Text(parts), .. } => {
                        format!("text {} on {}", joined(&parts), on.len())
                    }
                    Mount::Configure { configured, .. } => format!("{configured:?} on {}", on.len()),
                    other => format!("{other:?}"),
                },
                Ok(Plan::LetGo) => "let go".to_owned(),
                Ok(other) => format!("{other:?}"),
                Err(TargetError::Unreadable { errno, .. } | TargetError::Nowhere(errno)) => {
                    format!("{:?}", nix::errno::Errno::from_raw(errno.raw_os_error()))
                }
                Err(error) => error.to_string(),
            }
        }

        fn plan(&self, request: &Request, arguments: [u64; 6]) -> PlanOrError {
            let target = self;
            Planner { request, arguments, target, may_open_by_handle: false, searches_everything: true }.plan()
        }
    }

    fn joined(parts: &[Part]) -> String {
        let words = parts.iter().map(|part| match part {
            Part::Text(text) => String::from_utf8_lossy(text).into_owned(),
            Part::Number(position) => format!("<{position}>"),
        });
        words.collect()
    }

    type Asked<T> = Result<T, TargetError>;

    impl Target for Process {
        fn bytes(&self, address: u64, _: usize) -> Asked<Vec<u8>> {
            Err(TargetError::Unreadable { address, errno: Errno::FAULT })
        }

        fn path(&self, address: u64) -> Asked<Vec<u8>> {
            let text = self.texts.get(&address).map(|text| text.as_bytes().to_vec());
            text.ok_or(TargetError::Unreadable { address, errno: Errno::FAULT })
        }

        fn resolve_restricted(&self, _: Base, path: &[u8], _: Follow, _: Restrictions) -> Asked<Place> {
            if contains(path, b"missing") {
                return Err(TargetError::Nowhere(Errno::NOENT));
            }
            Ok(Place { object: Some(Self::object_of(&self.directory)), ..Place::default() })
        }

        fn object(&self, base: Base) -> Asked<Object> {
            match base {
                Base::Descriptor(99) => Err(TargetError::Nowhere(Errno::BADF)),
                Base::Descriptor(_) => Ok(Self::object_of(&self.directory)),
                _ => Ok(Self::object_of(&self.here)),
            }
        }

        fn by_handle(&self, _: i32, _: i32, _: Vec<u8>) -> Asked<Object> {
            Err(TargetError::Gone)
        }

        fn mount_namespace(&self) -> Asked<ObjectId> {
            Err(TargetError::Gone)
        }

        fn has_free_descriptor(&self) -> bool {
            true
        }

        fn file_size_limit(&self) -> Option<u64> {
            None
        }

        fn shown_namespaces(&self) -> Asked<[Arc<OwnedFd>; 4]> {
            Ok([(); 4].map(|()| Arc::new(File::open("/").expect("root").into())))
        }

        fn descriptor(&self, number: i32) -> Asked<OwnedFd> {
            let file = File::open("/dev/null").expect("null");
            if number == 99 { Err(TargetError::Nowhere(Errno::BADF)) } else { Ok(file.into()) }
        }

        fn controlling_terminal(&self) -> Asked<Object> {
            Err(TargetError::Gone)
        }

        fn is_own_process_directory(&self, _: &OwnedFd) -> bool {
            false
        }

        fn is_mount_root(&self, _: &Object) -> Option<bool> {
            None
        }

        fn content(&self, _: &Object, _: usize) -> Option<Vec<u8>> {
            None
        }
    }

    #[test]
    fn an_upper_layer_is_the_object_that_was_decided_about() {
        let cases = [
            ("lowerdir=/l,upperdir=/u,workdir=/w,ro", "lowerdir=/l,upperdir=<5>,workdir=/w,ro on 6"),
            ("upperdir=/u,upperdir=/v", "upperdir=<5>,upperdir=<6> on 7"),
            ("upperdir=/missing", "upperdir=nowhere on 5"),
            ("upperdir=,upperdir", "upperdir=,upperdir on 5"),
            ("lowerdir=a:/b::c,workdir=w", "lowerdir=<5>/a:/b::<5>/c,workdir=<5>/w on 6"),
            (r"lowerdir=a\:b\,c:\/d,userxattr", r"lowerdir=<5>/a\:b\,c:\/d,userxattr on 6"),
            ("lowerdir+=a,datadir+=/b", "lowerdir+=<5>/a,datadir+=/b on 6"),
            (r"context=x\,upperdir=/u", "EINVAL"),
            (r"x\,upperdir=/u", "EINVAL"),
            ("", " on 5"),
        ];
        for (options, expected) in cases {
            let process = Process::new(&[(1, "none"), (2, "/mnt"), (3, "overlay"), (4, options)]);
            assert_eq!(process.told(Call::Mount, [1, 2, 3, 0, 4, 0]), expected, "{options}");
        }
        let process = Process::new(&[(1, "none"), (2, "/mnt"), (3, "tmpfs"), (4, "upperdir=/u,size=1m")]);
        assert_eq!(process.told(Call::Mount, [1, 2, 3, 0, 4, 0]), "upperdir=/u,size=1m on 5");
        assert_eq!(process.told(Call::Mount, [1, 2, 3, 0, 5, 0]), "EFAULT");
        for (options, expected) in [
            ("fd=3,rootmode=40000", "fd=<5>,rootmode=40000 on 6"),
            ("trans=fd,rfdno=3,wfdno=4", "trans=fd,rfdno=<5>,wfdno=<6> on 7"),
            ("fd=99", "fd=2147483647 on 5"),
            ("fd,fd=,fd=x,size=3", "fd,fd=,fd=x,size=3 on 5"),
        ] {
            let process = Process::new(&[(1, "none"), (2, "/mnt"), (3, "fuse.sshfs"), (4, options)]);
            assert_eq!(process.told(Call::Mount, [1, 2, 3, 0, 4, 0]), expected, "{options}");
        }
    }

    #[test]
    fn settings_are_carried_out_where_they_lead_to_files() {
        const CWD: u64 = 0xFFFF_FF9C;
        const LONG: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789\
            abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789\
            abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let texts = [(1, "upperdir"), (2, "lowerdir"), (3, "/u"), (4, "l:/m"), (5, "/missing"), (6, LONG), (7, "")];
        let process = Process::new(&texts);
        let cases: &[([u64; 5], &str)] = &[
            ([3, 1, 1, 3, 0], "Layer on 2"),
            ([3, 1, 1, 5, 0], "text nowhere on 1"),
            ([3, 1, 1, 7, 0], "text  on 1"),
            ([3, 1, 2, 4, 0], "text <1>/l:/m on 2"),
            ([3, 1, 3, 4, 0], "text l:/m on 1"),
            ([3, 3, 1, 3, CWD], "Object on 2"),
            ([3, 3, 1, 5, CWD], "Nowhere on 1"),
            ([3, 3, 1, 7, CWD], "ENOENT"),
            ([3, 4, 1, 7, 8], "Object on 2"),
            ([3, 5, 1, 0, 8], "Descriptor on 2"),
            ([3, 5, 2, 0, 8], "Descriptor on 2"),
            ([3, 5, 2, 0, 99], "EBADF"),
            ([99, 1, 8, 3, 0], "EBADF"),
            ([3, 1, 8, 3, 0], "EFAULT"),
            ([3, 1, 6, 3, 0], "EINVAL"),
            ([3, 1, 3, 6, 0], "EINVAL"),
            ([3, 1, 1, 3, 1], "EINVAL"),
            ([3, 1, 0, 3, 0], "EINVAL"),
            ([3, 5, 1, 3, 8], "EINVAL"),
            ([3, 3, 1, 3, 0xFFFF_FFFF], "EINVAL"),
            ([0xFFFF_FFFF, 1, 1, 3, 0], "EINVAL"),
            ([3, 0, 1, 0, 0], "let go"),
            ([3, 2, 1, 3, 2], "let go"),
            ([3, 6, 0, 0, 0], "let go"),
            ([3, 77, 1, 3, 0], "let go"),
        ];
        for ([a, b, c, d, e], expected) in cases {
            let arguments = [*a, *b, *c, *d, *e, 0];
            assert_eq!(process.told(Call::Fsconfig, arguments), *expected, "{arguments:?}");
        }
    }
}
