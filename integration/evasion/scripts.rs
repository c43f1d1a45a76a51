//! Techniques that a shell can do: ordinary tools, interpreters, account tools in all their forms.

use super::technique::Technique;

const fn script(name: &'static str, text: &'static str) -> Technique {
    Technique::script(name, text)
}

const SHADOW: &str = "/etc/shadow";
const GROUP: &str = "/etc/group";

/// The scripts.
pub const SCRIPTS: [Technique; 54] = [
    // The shell itself and ordinary tools.
    script("append", "echo 'mallory:x:0:0::/root:/bin/sh' >> /etc/passwd"),
    script("cut-by-shell", ": > /etc/passwd"),
    script("open-both-ways", "exec 3<>/etc/passwd; printf 'm::0:0:::\\n' >&3"),
    script("tee", "echo 'mallory:x:0:0::/root:/bin/sh' | tee -a /etc/passwd"),
    script("dd", "echo 'mallory:x:0:0::/:/bin/sh' | dd of=/etc/passwd oflag=append conv=notrunc"),
    script("sed-in-place", "sed -i 's/^games:x:5:60/games:x:0:0/' /etc/passwd"),
    script("sort-output", "printf 'a:x:0:0::/:/bin/sh\\n' > /tmp/more; sort -o /etc/passwd /tmp/more /etc/passwd"),
    script("cp", "sed 's/^games:x:5:60/games:x:0:0/' /etc/passwd > /tmp/p; cp /tmp/p /etc/passwd"),
    script(
        "cp-remove",
        "sed 's/^games:x:5:60/games:x:0:0/' /etc/passwd > /tmp/p; \
         cp --remove-destination /tmp/p /etc/passwd",
    ),
    script("mv", "sed 's/^games:x:5:60/games:x:0:0/' /etc/passwd > /tmp/p; mv -f /tmp/p /etc/passwd"),
    script("install", "sed 's/^games:x:5:60/games:x:0:0/' /etc/passwd > /tmp/p; install -m 644 /tmp/p /etc/passwd"),
    script("ln-force", "sed 's/^games:x:5:60/games:x:0:0/' /etc/passwd > /etc/p; ln -f /etc/p /etc/passwd"),
    script("ln-symbolic", "sed 's/^games:x:5:60/games:x:0:0/' /etc/passwd > /etc/p; ln -sf p /etc/passwd"),
    script("rm", "rm -f /etc/shadow").on(SHADOW),
    script(
        "tar",
        "mkdir -p /tmp/t/etc; cp /etc/passwd /tmp/t/etc; echo 'm:x:0:0:::' >> /tmp/t/etc/passwd; \
         tar -C /tmp/t -cf /tmp/t.tar etc/passwd; tar -C / -xf /tmp/t.tar",
    ),
    script("busybox-shell", "/bin/busybox sh -c 'echo m:x:0:0::: >> /etc/passwd'"),
    script(
        "busybox-cpio",
        "mkdir -p /tmp/t/etc; cd /tmp/t; echo m:x:0:0::: > etc/passwd; \
         echo etc/passwd | /bin/busybox cpio -o -H newc > /tmp/c; cd /; /bin/busybox cpio -idu < /tmp/c",
    ),
    script("typescript", "script -q -a -c 'echo m:x:0:0:::' /etc/passwd < /dev/null"),
    script(
        "without-capabilities",
        "setpriv --bounding-set=-all --inh-caps=-all sh -c 'echo m:x:0:0::: >> /etc/passwd'",
    ),
    script(
        "unshared-everything",
        "unshare --user --map-root-user --mount --pid --fork sh -c 'echo m:x:0:0::: >> /etc/passwd'",
    )
    .mounting_in_user_namespace(),
    // Interpreters and editors.
    script(
        "perl",
        "perl -e 'open(F, q(>>), q(/etc/passwd)) or exit 1; print F qq(m:x:0:0:::\\n); \
         close F or exit 1'",
    ),
    script("perl-syscall", "perl -e '$p = qq(/etc/passwd\\0); syscall(76, $p, 10) == 0 or exit 1'"),
    script(
        "python",
        "python3 -c \"import os; \
         os.write(os.open('/etc/passwd', os.O_WRONLY | os.O_APPEND), b'm:x:0:0:::\\\\n')\"",
    )
    .large(),
    script("gawk", "gawk 'BEGIN { print \"m:x:0:0:::\" >> \"/etc/passwd\" }'").large(),
    script("ed", "printf 'a\\nm:x:0:0:::\\n.\\nw\\nq\\n' | ed -s /etc/passwd").large(),
    script("vim", "vim.tiny -u NONE -es /etc/passwd -c '1s/^/m:x:0:0:::\\r/' -c 'wq!'").large(),
    script("sqlite", "sqlite3 :memory: '.output /etc/passwd' \"select 'm:x:0:0:::'\"").large(),
    script(
        "patch",
        "cp /etc/passwd /tmp/p; echo m:x:0:0::: >> /tmp/p; \
         diff -u /etc/passwd /tmp/p | patch /etc/passwd",
    )
    .large(),
    script(
        "rsync",
        "cp /etc/passwd /tmp/passwd; echo m:x:0:0::: >> /tmp/passwd; \
         rsync /tmp/passwd /etc/passwd",
    )
    .large(),
    script("curl", "echo m:x:0:0::: > /tmp/p; curl -s -o /etc/passwd file:///tmp/p").large(),
    script("find-print", "find /etc/hosts -fprintf /etc/passwd 'm:x:0:0:::\\n'").large(),
    script("compiler", "printf 'int main(void){return 0;}' > /tmp/m.c; gcc -o /etc/passwd /tmp/m.c").large(),
    // Account tools.
    script("useradd", "useradd mallory"),
    script("useradd-with-prefix", "useradd --prefix / mallory"),
    script("useradd-with-root", "useradd --root / mallory"),
    script("adduser", "adduser --disabled-password --gecos '' mallory"),
    script("busybox-adduser", "/opt/busybox/adduser -D mallory"),
    script("loader-as-launcher", "/lib64/ld-linux-x86-64.so.2 /usr/sbin/useradd mallory"),
    script("usermod", "usermod --shell /bin/bash games"),
    script("usermod-subordinate", "usermod --add-subuids 500000-565535 games").on("/etc/subuid"),
    script("userdel", "userdel games"),
    script("groupadd", "groupadd outlaws").on(GROUP),
    script("gpasswd", "gpasswd -a games sudo").on(GROUP),
    script("chsh", "chsh -s /bin/bash games"),
    script("chage", "chage -E 1 games").on(SHADOW),
    script("passwd-delete", "passwd -d games").on(SHADOW),
    script("chpasswd", "echo games:secret | chpasswd -c SHA512").on(SHADOW),
    script("newusers", "echo 'mallory:secret:0:0::/root:/bin/sh' | newusers"),
    script("pwunconv", "pwunconv"),
    script(
        "vipw",
        "printf '#!/bin/sh\\necho m:x:0:0::: >> \"$1\"\\n' > /tmp/e; chmod 755 /tmp/e; \
         VISUAL=/tmp/e EDITOR=/tmp/e vipw",
    ),
    script("systemd-sysusers", "echo 'u mallory - - / /bin/sh' > /tmp/m.conf; systemd-sysusers /tmp/m.conf").large(),
    script(
        "package-script",
        "mkdir -p /tmp/m/DEBIAN; \
         printf 'Package: m\\nVersion: 1\\nArchitecture: all\\nMaintainer: m <m@m>\\nDescription: m\\n' > /tmp/m/DEBIAN/control; \
         printf '#!/bin/sh\\nuseradd mallory\\n' > /tmp/m/DEBIAN/postinst; chmod 755 /tmp/m/DEBIAN/postinst; \
         dpkg-deb -b /tmp/m /tmp/m.deb; dpkg -i /tmp/m.deb",
    ),
    // Other sources of accounts.
    script(
        "nsswitch-extrausers",
        "sed -i 's/^passwd:.*/& extrausers/' /etc/nsswitch.conf; \
         echo 'm:x:0:0::/:/bin/sh' >> /var/lib/extrausers/passwd",
    )
    .on("/var/lib/extrausers/passwd"),
    script("nsswitch", "sed -i 's/^passwd:.*/passwd: hesiod files/' /etc/nsswitch.conf").on("/etc/nsswitch.conf"),
];
