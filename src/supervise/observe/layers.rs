//! Whether an overlay to come would write a database by its upper layer.

use crate::kernel::Errno;
use crate::kernel::foreign_root::Base;
use crate::kernel::foreign_root::Follow;
use crate::model::attempt::Effect;
use crate::supervise::argument::Argument;
use crate::supervise::argument::mount_options;
use crate::supervise::decode::SettingArgument;
use crate::supervise::layers;
use crate::supervise::layers::Setting;
use crate::supervise::observe::Observer;
use crate::supervise::observe::Seen;
use crate::supervise::observe::SeenOrError;
use crate::supervise::target::ObjectKind;
use crate::supervise::target::TargetError;

impl Observer<'_> {
    /// The upper layers of a new file system of the type and with the options at these addresses.
    pub(super) fn new_file_system(&self, kind: u64, data: u64, flags: &[&'static str]) -> SeenOrError {
        let kind = if kind == 0 { None } else { readable(self.target.path(kind))? };
        if data == 0 || kind.is_none_or(|kind| kind != layers::OVERLAY) {
            return Ok(Vec::new());
        }
        let options = readable(mount_options(self.target, data))?.unwrap_or_default();
        let uppers = layers::settings(&options).iter().filter_map(Setting::upper).collect::<Vec<_>>();
        let seen = uppers.into_iter().map(|path| self.upper_layer(self.looked_up(path), flags.to_vec()));
        seen.filter_map(Result::transpose).collect()
    }

    /// fsconfig(2): one setting of a file system to come. Of which type it is the descriptor does not tell; no other has a
    /// setting of that name.
    pub(super) fn configure(&self, key: u64, value: SettingArgument) -> SeenOrError {
        if key == 0 || readable(self.target.path(key))?.is_none_or(|key| key != layers::UPPER) {
            return Ok(Vec::new());
        }
        let (argument, flag) = match value {
            SettingArgument::Text(pointer) => {
                let text = self.target.path(pointer);
                (text.and_then(|text| self.looked_up(layers::unescaped(&text))), "FSCONFIG_SET_STRING")
            }
            SettingArgument::Path(path) => (self.argument(path), "FSCONFIG_SET_PATH"),
            SettingArgument::Descriptor(number) => {
                (self.target.object(Base::Descriptor(number)).map(Argument::of_object), "FSCONFIG_SET_FD")
            }
            SettingArgument::Nothing => return Ok(Vec::new()),
        };
        Ok(self.upper_layer(argument, vec![flag])?.into_iter().collect())
    }

    fn looked_up(&self, path: Vec<u8>) -> Result<Argument, TargetError> {
        if path.is_empty() {
            return Err(TargetError::Nowhere(Errno::INVAL));
        }
        let place = self.target.resolve(Base::Cwd, &path, Follow::Last)?;
        Ok(Argument { asked: path, place })
    }

    /// An attempt, when a database is below what shall be an upper layer. What leads nowhere is nobody's layer.
    fn upper_layer(
        &self,
        layer: Result<Argument, TargetError>,
        flags: Vec<&'static str>,
    ) -> Result<Option<Seen>, TargetError> {
        if let Err(TargetError::Unable(_)) = layer {
            return Ok(Some(self.without_database(Effect::Unresolved, None, flags)));
        }
        let Some(layer) = readable(layer)? else { return Ok(None) };
        let is_directory = layer.place.object.as_ref().is_some_and(|object| object.kind == ObjectKind::Directory);
        let database = self.own.ancestors().find(&layer.place).filter(|_| is_directory);
        Ok(database.map(|database| self.attempt(Effect::Aliases, database, &layer, flags)))
    }
}

/// Nothing, where the kernel finds nothing either: it says so itself.
fn readable<T>(read: Result<T, TargetError>) -> Result<Option<T>, TargetError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(TargetError::Unreadable { .. } | TargetError::Nowhere(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
