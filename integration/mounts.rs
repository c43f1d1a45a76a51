//! What a workload that may mount gets when the broker mounts for it is what it gets without acctguard: the same file systems of
//! the same namespaces, the same options, the same errors.

use acctguard::model::policy::Ground;

use crate::harness::bundle::{Capabilities, Spec};
use crate::harness::events::of;
use crate::harness::node::{Node, Runtime, policy};
use acctguard::model::event::Kind;

/// Each line says what it does. `shown` prints a mount's own options and its file system's, without what is counted, and without the
/// path of an overlay's upper layer, which is a descriptor's number where the broker mounts.
const SCRIPT: &str = r#"
m=/tmp/m; mkdir -p $m /tmp/lower/sub /tmp/upper /tmp/work
shown() { grep " $m " /proc/self/mountinfo | cut -d' ' -f4,6- | sed 's/inode64//; s/ - / /; s/shared:[0-9]*/shared/; s|^/tmp2|/tmp|; s|upperdir=[^,]*|upperdir|' | sort; }
try() { echo "== mount $*"; busybox mount "$@" $m 2>&1 | sed 's/.*: //'; shown; }
ends() { while busybox umount $m 2>/tmp/err; do :; done; sed "s|.*: ||" /tmp/err; }
try -t proc proc; ls $m | grep -c '^1$'; cut -c1-7 <$m/1/cmdline | head -n 1; [ "$(readlink $m/self)" ] && echo self; ends
try -t proc -o ro,nosuid,nodev,noexec proc; ends
try -t proc -o hidepid=2 proc; ends
try -t proc -o noatime,nodiratime proc; ends
try -t proc -o strictatime,nosuid proc; ends
try -t proc -o nonsense proc; try -t proc.x proc; try -t proc -o hidepid=9 proc
try -t sysfs none; ls $m/class/net; ends
try -t mqueue none; ls $m; ends
try -t cgroup2 none; [ -e $m/cgroup.type ] && echo inner; [ -s $m/cgroup.procs ] && echo processes; ends
try -t tmpfs -o size=64k,mode=711,uid=7 some-name; stat -c '%a %u' $m; ends
try -t tmpfs -o ro,noatime,nodiratime,sync,dirsync none; touch $m/x 2>&1 | sed 's/.*: //'; ends
try -t tmpfs -o nosuid,noexec,strictatime none; try -t tmpfs none; ends
try -t tmpfs -o nonsense=1 none
try -t nonsense none
try -t ext4 /dev/null
try -t ext4 /nowhere
try -t tmpfs -o size= none; ends
try -t tmpfs -o ,,size=1m,, ''; ends
try -t overlay -o lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work over; ls $m; touch $m/made; ls /tmp/upper; ends
try -t overlay -o lowerdir=/tmp/lower:/tmp/upper over; ls $m; touch $m/x 2>&1 | sed 's/.*: //'; ends
try -t overlay -o lowerdir=/nowhere,upperdir=/tmp/upper,workdir=/tmp/work over
try -t overlay -o lowerdir=/tmp/lower,upperdir=/nowhere,workdir=/tmp/work over
try -t proc proc; busybox mount -t proc proc $m 2>&1 | sed 's/.*: //'; shown | wc -l; ends
try --bind /tmp/lower; ls $m; busybox mount -o remount,bind,ro $m; shown; touch $m/x 2>&1 | sed 's/.*: //'; ends
try --rbind /tmp; busybox mount --make-shared $m; shown; ends
try -t tmpfs -o size=1m none; busybox mount -o remount,size=2m $m; shown; mkdir -p /tmp/n; busybox mount --move $m /tmp/n; shown; m=/tmp/n; shown; ends
m=/tmp/m; try -t tmpfs none; cd $m; busybox umount $m 2>&1 | sed 's/.*: //'; busybox umount -l $m; cd /; shown
try --bind /nowhere; try --move /tmp/lower
cd /tmp; busybox mount -t tmpfs -o size=1m none m && shown; ends
"#;

fn what_the_broker_mounts_is_what_was_asked_for(runtime: Runtime) {
    let node = Node::start(runtime, &policy("enforce"));
    let mut spec = Spec::shell(SCRIPT);
    spec.capabilities = Capabilities::All;
    spec.binds.push((node.scratch.folder("tmp"), "/tmp".to_owned()));
    let plain = node.run_bare(&node.bundle(&spec)).ok();
    spec.binds = vec![(node.scratch.folder("tmp2"), "/tmp".to_owned())];
    let bundle = node.bundle(&spec);
    let guarded = node.run(&bundle).ok();
    let created = node.events();
    let created = of(&created, Kind::ContainerCreated, &bundle.id);
    let ground = created[0].creation.as_ref().expect("creation").protection.ground;
    assert_eq!(ground, Ground::Broker);
    assert!(plain.stdout.matches("== mount").count() > 15, "{}", plain.stdout);
    let differing: Vec<String> = plain
        .stdout
        .lines()
        .zip(guarded.stdout.lines())
        .filter(|(plain, guarded)| plain != guarded)
        .map(|(plain, guarded)| format!("- {plain}\n+ {guarded}"))
        .collect();
    assert_eq!(plain.stdout, guarded.stdout, "{}", differing.join("\n"));
}

#[test]
fn runc_what_the_broker_mounts_is_what_was_asked_for() {
    what_the_broker_mounts_is_what_was_asked_for(Runtime::Runc);
}

#[test]
fn crun_what_the_broker_mounts_is_what_was_asked_for() {
    what_the_broker_mounts_is_what_was_asked_for(Runtime::Crun);
}
