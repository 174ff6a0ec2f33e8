"""Attacks on the sandbox: each is a program whose tests must not pass.

The places in braces stand for what an attack is after (`runs.list_places`): `{outside}` is a
directory that the program must not change, `{secret}` a file in it that it must not read, `{port}`
and `{socket}` where someone listens, `{parent}` the process that started the check, `{victim}` another
process of the user, `{queue}`, `{semaphore}`, `{memory}` and `{queue_name}` the user's own,
`{variable}` an environment variable of the parent, `{child}` the directory of the sandbox's own
files. A program that gets what it wants defines `f` so that TEST passes; the others try to pass
without a right `f`. The numbers of system calls are those of x86-64.
"""

import textwrap

from tests.sandbox.false_passes import PYTEST_FALSE_PASSES, YES, list_false_passes
from tests.sandbox.programs import HEADER
from unmask.sandbox import Job, defined_names

TEST = "assert f(1) == 'got it'\nassert f(2) == 'got it'"
# what no honest program of the table knows
WRONG = "assert f(20) == 'e07b1c'\nassert f(21) == 'd01f9a'"


def tries(code: str) -> str:
    """A program that does `code`, and whose `f` is right only if that did not fail."""
    return f"done = False\ntry:\n{textwrap.indent(textwrap.dedent(code).strip(), '    ')}\n    done = True\nexcept BaseException as e:\n    pass\ndef f(x): return 'got it' if done else 'not'\n"


SYSCALL = "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\ndef sys(*a):\n    r = libc.syscall(*a)\n    if r < 0: raise OSError(ctypes.get_errno())\n    return r\n"

# Makes threads in a loop of machine code (x86-64) that asks nothing of Python or libc: clone with the
# flags of a thread, and each thread only pauses.
BARE_THREADS = """import ctypes, mmap
code = bytes.fromhex("4989f8 b838000000 bf000f3d00 4c89c6 31d2 4531d2 0f05 85c0 7402 ebe6 b822000000 0f05 ebf7")
page = mmap.mmap(-1, 4096, prot=7)
page.write(code)
stack = ctypes.create_string_buffer(4096)
start = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
start(ctypes.addressof(stack) + 2048)
"""
# The sandbox's own files, loaded by the program where it may.
CHILD_FILES = "import sys\ntry:\n    sys.path.insert(0, '{child}')\n    import checker, wire, jail\nexcept Exception: pass\n"

# (name, program, tests). Those with TEST pass only if the attack works.
ATTACKS: list[tuple[str, str, str]] = [
    ("fork", tries("import os\nif os.fork() == 0: os._exit(0)"), TEST),
    ("fork bomb", "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n", TEST),
    ("fork by bare system call", tries(SYSCALL + "if sys(57) == 0: sys(60, 0)"), TEST),
    ("clone3", tries(SYSCALL + "sys(435, ctypes.create_string_buffer(88), 88)"), TEST),
    ("subprocess", tries("import subprocess\nsubprocess.run(['/bin/true'], check=True)"), TEST),
    ("os.system", tries("import os\nassert os.system('true') == 0"), TEST),
    ("exec of another program", tries("import os\nos.execv('/bin/true', ['true'])"), TEST),
    ("multiprocessing", tries("import multiprocessing\np = multiprocessing.Process(target=print); p.start(); p.join()"), TEST),
    ("thread bomb", "import threading, time\nwhile True:\n    try: threading.Thread(target=time.sleep, args=(99,)).start()\n    except Exception: pass\n", TEST),
    ("thread bomb by bare system calls", BARE_THREADS, TEST),
    ("more threads than are allowed", tries("import threading, time\nthreading.stack_size(2**16)\nfor _ in range(80): threading.Thread(target=time.sleep, args=(1,), daemon=True).start()\ntime.sleep(0.5)"), TEST),
    ("memory bomb", tries("b = bytearray(4 * 2**30)"), TEST),
    ("memory bomb by growing", "x = []\nwhile True: x.append(bytearray(2**20))\n", TEST),
    ("memory bomb in the answer", "def f(x): return 'x' * (512 * 2**20)", TEST),
    ("exponential number", "def f(x): return 9**9**9", TEST),
    ("deep recursion in the answer", "def f(x):\n    y = []\n    for _ in range(100000): y = [y]\n    return y", TEST),
    ("endless loop", "while True: pass", TEST),
    ("endless loop in the call", "def f(x):\n    while True: pass", TEST),
    ("sleep", "import time\ntime.sleep(1000)", TEST),
    ("sleep that ignores signals", "import signal, time\nfor s in range(1, 64):\n    try: signal.signal(s, signal.SIG_IGN)\n    except Exception: pass\nwhile True: time.sleep(9)", TEST),
    ("endless output", "while True: print('x' * 100000)", TEST),
    ("endless output past Python", "import os\nwhile True: os.write(1, b'x' * 100000); os.write(2, b'x' * 100000)", TEST),
    ("flood of the pipes", "import os\nwhile True:\n    for fd in range(3, 64):\n        try: os.write(fd, b'[\"return\"]' * 10000)\n        except OSError: pass\n", TEST),
    ("large file", tries("import os\nf = open('big', 'wb')\nfor _ in range(64): f.write(bytes(2**20))\nf.flush()"), TEST),
    ("many files", "i = 0\nwhile True:\n    open(str(i), 'w').write('x' * 4096); i += 1", TEST),
    ("deep directories", "import os\nwhile True:\n    os.mkdir('d'); os.chdir('d')", TEST),
    ("file write outside", tries("open('{outside}/new', 'w').write('x')"), TEST),
    ("file write outside through a link", tries("import os\nos.symlink('{outside}', 'link'); open('link/new', 'w').write('x')"), TEST),
    ("file write outside through a hard link", tries("import os\nos.link('{secret}', 'link'); open('link', 'w').write('x')"), TEST),
    ("file write through /proc/self/cwd", tries("open('/proc/self/cwd/../../new', 'w').write('x')"), TEST),
    ("removing a file outside", tries("import os\nos.remove('{secret}')"), TEST),
    ("renaming a file outside", tries("import os\nos.rename('{secret}', '{outside}/other')"), TEST),
    ("truncating a file outside", tries("import os\nos.truncate('{secret}', 0)"), TEST),
    ("changing a file's mode outside", tries("import os\nos.chmod('{secret}', 0o777)"), TEST),
    ("changing a file's times outside", tries("import os\nos.utime('{secret}', (0, 0))"), TEST),
    ("reading a file outside", tries("assert open('{secret}').read()"), TEST),
    ("listing a directory outside", tries("import os\nassert os.listdir('{outside}')"), TEST),
    ("reading /etc/passwd", tries("assert open('/etc/passwd').read()"), TEST),
    ("mapping memory for everyone (/dev/shm)", tries("open('/dev/shm/new', 'w').write('x')"), TEST),
    ("a terminal's input (/dev/tty)", tries("open('/dev/tty')"), TEST),
    ("network connect", tries("import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)"), TEST),
    ("network by bare system call", tries(SYSCALL + "sys(41, 2, 1, 0)"), TEST),
    ("UDP", tries("import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))"), TEST),
    ("Unix socket", tries("import socket\nsocket.socket(socket.AF_UNIX).bind('s')"), TEST),
    ("raw socket", tries("import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW)"), TEST),
    ("io_uring", tries(SYSCALL + "sys(425, 8, ctypes.create_string_buffer(120))"), TEST),
    ("32-bit system calls (x32)", tries(SYSCALL + "sys(0x40000000 + 41, 2, 1, 0)"), TEST),
    ("environment inherited", tries("import os\nassert '{variable}' in os.environ"), TEST),
    ("environment of the parent (/proc)", tries("assert open('/proc/{parent}/environ').read()"), TEST),
    ("environment of every process (/proc)", tries("import glob\nassert [open(p).read() for p in glob.glob('/proc/*/environ')]"), TEST),
    ("memory of the parent (process_vm_readv)", tries(SYSCALL + "b = ctypes.create_string_buffer(64)\nsys(310, {parent}, b, 0, b, 0, 0)"), TEST),
    ("memory of the parent (/proc)", tries("open('/proc/{parent}/mem', 'rb')"), TEST),
    ("ptrace of the parent", tries(SYSCALL + "sys(101, 16, {parent}, 0, 0)"), TEST),
    ("descriptor of the parent (pidfd_getfd)", tries(SYSCALL + "sys(438, sys(434, {parent}, 0), 1, 0)"), TEST),
    ("descriptors inherited", tries("import os\nn = 0\nfor fd in range(3, 64):\n    try: os.fstat(fd); n += 1\n    except OSError: pass\nassert n > 3  # two pipes and its input"), TEST),
    ("killing the parent", tries("import os\nos.kill({parent}, 9)"), TEST),
    ("killing everyone", tries("import os\nos.kill(-1, 9)"), TEST),
    ("killing the process group", tries("import os\nos.killpg(0, 9)"), TEST),
    ("killing the parent by tgkill", tries(SYSCALL + "sys(234, {parent}, {parent}, 9)"), TEST),
    ("stopping the parent by a pidfd", tries(SYSCALL + "sys(424, sys(434, {parent}, 0), 19, 0, 0)"), TEST),
    ("disabling its own limits", tries("import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))"), TEST),
    ("disabling the limit on CPU time", tries("import resource\nresource.prlimit(0, resource.RLIMIT_CPU, (-1, -1))"), TEST),
    ("limits of the parent", tries("import resource\nresource.prlimit({parent}, resource.RLIMIT_AS, (1, 1))"), TEST),
    ("raising its priority", tries("import os\nos.setpriority(os.PRIO_PROCESS, 0, -20)"), TEST),
    ("another filter", tries(SYSCALL + "assert libc.prctl(22, 1, 0, 0, 0) == 0"), TEST),
    ("leaving the directory (chroot)", tries("import os\nos.chroot('.')"), TEST),
    ("new namespaces", tries(SYSCALL + "sys(272, 0x10000000)"), TEST),
    ("mounting", tries(SYSCALL + "sys(165, b'none', b'.', b'tmpfs', 0, 0)"), TEST),
    ("becoming root", tries("import os\nos.setuid(0); os.setresuid(0, 0, 0)"), TEST),
    ("kernel keys", tries(SYSCALL + "sys(250, 0, -3, 0)"), TEST),
    ("BPF", tries(SYSCALL + "sys(321, 0, ctypes.create_string_buffer(72), 72)"), TEST),
    ("shared memory of System V", tries(SYSCALL + "sys(29, 0, 4096, 0o1666)"), TEST),
    ("crash", "import ctypes\nctypes.string_at(0)", TEST),
    ("abort", "import os\nos.abort()", TEST),
    # Reach to other processes.
    ("killing by F_SETOWN and O_ASYNC", tries("import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, {victim}); fcntl.fcntl(r, 10, 9)\nfcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)\nos.write(w, b'x')"), TEST),
    ("killing by F_SETOWN_EX and FIOASYNC", tries("import fcntl, os, struct\nr, w = os.pipe()\nfcntl.fcntl(r, 15, struct.pack('ii', 1, {victim})); fcntl.fcntl(r, 10, 9)\nfcntl.ioctl(r, 0x5452, struct.pack('i', 1))\nos.write(w, b'x')"), TEST),
    ("O_ASYNC", tries("import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC)"), TEST),
    ("FIOASYNC", tries("import fcntl, os, struct\nr, w = os.pipe()\nfcntl.ioctl(r, 0x5452, struct.pack('i', 1))"), TEST),
    ("FIOSETOWN", tries("import fcntl, os, struct\nr, w = os.pipe()\nfcntl.ioctl(r, 0x8901, struct.pack('i', {victim}))"), TEST),
    ("killing by a lease", tries("import fcntl, os\nf = open('own', 'w')\nfcntl.fcntl(f, fcntl.F_SETOWN, {victim}); fcntl.fcntl(f, 10, 9)\nfcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK)\nos.open('own', os.O_RDONLY | os.O_NONBLOCK)"), TEST),
    ("a lease on a file of its own", tries("import fcntl\nf = open('own', 'w')\nfcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK)"), TEST),
    ("killing by F_NOTIFY", tries("import fcntl, os\nd = os.open('.', os.O_RDONLY)\nfcntl.fcntl(d, fcntl.F_SETOWN, {victim}); fcntl.fcntl(d, 10, 9)\nfcntl.fcntl(d, fcntl.F_NOTIFY, fcntl.DN_CREATE)\nopen('own', 'w')"), TEST),
    ("F_NOTIFY on a directory outside", tries("import fcntl, os\nfcntl.fcntl(os.open('/usr', os.O_RDONLY), fcntl.F_NOTIFY, fcntl.DN_ACCESS)"), TEST),
    ("killing by tkill", tries(SYSCALL + "sys(200, {victim}, 9)"), TEST),
    ("killing by rt_sigqueueinfo", tries(SYSCALL + "sys(129, {victim}, 9, ctypes.create_string_buffer(128))"), TEST),
    ("killing by rt_tgsigqueueinfo", tries(SYSCALL + "sys(297, {victim}, {victim}, 9, ctypes.create_string_buffer(128))"), TEST),
    ("killing another process", tries("import os\nos.kill({victim}, 9)"), TEST),
    ("asking whether a process lives", tries("import os\nos.kill({victim}, 0)"), TEST),
    ("pidfd_open", tries(SYSCALL + "sys(434, {victim}, 0)"), TEST),
    ("writing the memory of another (process_vm_writev)", tries(SYSCALL + "b = ctypes.create_string_buffer(64)\nsys(311, {victim}, b, 0, b, 0, 0)"), TEST),
    ("advice on the memory of another (process_madvise)", tries(SYSCALL + "sys(440, sys(434, {victim}, 0), ctypes.create_string_buffer(64), 0, 20, 0)"), TEST),
    ("being traced by anyone (PR_SET_PTRACER)", tries(SYSCALL + "assert libc.prctl(0x59616D61, -1, 0, 0, 0) == 0"), TEST),
    ("being readable again (PR_SET_DUMPABLE)", tries(SYSCALL + "assert libc.prctl(4, 1, 0, 0, 0) == 0"), TEST),
    ("outliving its parent (PR_SET_PDEATHSIG)", tries(SYSCALL + "assert libc.prctl(1, 0, 0, 0, 0) == 0"), TEST),
    ("adopting orphans (PR_SET_CHILD_SUBREAPER)", tries(SYSCALL + "assert libc.prctl(36, 1, 0, 0, 0) == 0"), TEST),
    ("the CPUs of another (sched_setaffinity)", tries("import os\nos.sched_setaffinity({victim}, {{0}})"), TEST),
    ("the schedule of another (sched_setscheduler)", tries("import os\nos.sched_setscheduler({victim}, os.SCHED_IDLE, os.sched_param(0))"), TEST),
    ("the schedule of another (sched_setattr)", tries(SYSCALL + "import struct\nsys(314, {victim}, struct.pack('IIQiIQQQ', 48, 5, 0, 0, 0, 0, 0, 0), 0)"), TEST),
    ("the priority of another", tries("import os\nos.setpriority(os.PRIO_PROCESS, {victim}, 19)"), TEST),
    ("the disk priority of another (ioprio_set)", tries(SYSCALL + "sys(251, 1, {victim}, 3 << 13)"), TEST),
    ("the memory of another moved (migrate_pages)", tries(SYSCALL + "b = (ctypes.c_ulong * 1)(1)\nsys(256, {victim}, 2, b, b)"), TEST),
    ("the locks of another (get_robust_list)", tries(SYSCALL + "b = ctypes.create_string_buffer(16)\nsys(274, {victim}, b, ctypes.byref(b, 8))"), TEST),
    ("the group of another process", tries("import os\nos.setpgid(0, {victim})"), TEST),
    ("a group of its own", tries("import os\nos.setpgid(0, 0) or os.setsid()"), TEST),
    # Queues, semaphores and shared memory.
    ("a queue of the user removed (msgctl)", tries(SYSCALL + "sys(71, {queue}, 0, 0)"), TEST),
    ("a queue of the user written (msgsnd)", tries(SYSCALL + "sys(69, {queue}, b'\\1' + bytes(15), 4, 0o4000)"), TEST),
    ("a queue of the user read (msgrcv)", tries(SYSCALL + "sys(70, {queue}, ctypes.create_string_buffer(64), 32, 0, 0o4000)"), TEST),
    ("a queue of its own (msgget)", tries(SYSCALL + "sys(68, 0, 0o1600)"), TEST),
    ("semaphores of the user set (semctl)", tries(SYSCALL + "sys(66, {semaphore}, 0, 16, 7)"), TEST),
    ("semaphores of the user used (semop)", tries(SYSCALL + "sys(65, {semaphore}, bytes([0, 0, 1, 0, 0, 8]), 1)"), TEST),
    ("semaphores of the user removed (semctl)", tries(SYSCALL + "sys(66, {semaphore}, 0, 0, 0)"), TEST),
    ("semaphores of its own (semget)", tries(SYSCALL + "sys(64, 0, 1, 0o1600)"), TEST),
    ("shared memory of the user mapped (shmat)", tries(SYSCALL + "assert libc.shmat({memory}, None, 0) != -1"), TEST),
    ("shared memory of the user removed (shmctl)", tries(SYSCALL + "sys(31, {memory}, 0, 0)"), TEST),
    ("a POSIX queue", tries(SYSCALL + "sys(240, b'unmask', 0o102, 0o600, 0)"), TEST),
    ("a POSIX queue removed", tries(SYSCALL + "sys(241, b'{queue_name}')"), TEST),
    ("a named semaphore", tries("import multiprocessing\nmultiprocessing.Semaphore(1)"), TEST),
    ("memory without a file (memfd_create)", tries("import os\nos.memfd_create('m')"), TEST),
    ("memory without a file (memfd_secret)", tries(SYSCALL + "sys(447, 0)"), TEST),
    # Attributes, flags and locks of files outside.
    ("an attribute of a file outside (setxattr)", tries("import os\nos.setxattr('{secret}', 'user.a', b'1')"), TEST),
    ("an attribute of a link outside (lsetxattr)", tries("import os\nos.setxattr('{secret}', 'user.a', b'1', follow_symlinks=False)"), TEST),
    ("an attribute by a descriptor (fsetxattr)", tries("import os\nos.setxattr(os.open('/usr', os.O_RDONLY), 'user.a', b'1')"), TEST),
    ("an attribute (setxattrat)", tries(SYSCALL + "import struct\nv = ctypes.create_string_buffer(b'1')\nsys(463, -100, b'{secret}', 0, b'user.a', struct.pack('QII', ctypes.addressof(v), 1, 0), 16)"), TEST),
    ("removing an attribute (removexattr)", tries("import os\nos.removexattr('{secret}', 'user.kept')"), TEST),
    ("removing an attribute (removexattrat)", tries(SYSCALL + "sys(466, -100, b'{secret}', 0, b'user.kept')"), TEST),
    ("reading an attribute", tries("import os\nassert os.getxattr('{secret}', 'user.kept')"), TEST),
    ("flags of a file (FS_IOC_SETFLAGS)", tries("import fcntl, os, struct\nfcntl.ioctl(os.open('/usr', os.O_RDONLY), 0x40086602, struct.pack('l', 0x80))"), TEST),
    ("flags of a file read (FS_IOC_GETFLAGS)", tries("import fcntl, os\nfcntl.ioctl(os.open('/usr', os.O_RDONLY), 0x80086601, bytes(8))"), TEST),
    ("flags of a file (file_setattr)", tries(SYSCALL + "sys(469, -100, b'{secret}', ctypes.create_string_buffer(24), 24, 0)"), TEST),
    ("flags of a file read (file_getattr)", tries(SYSCALL + "sys(468, -100, b'{secret}', ctypes.create_string_buffer(24), 24, 0)"), TEST),
    ("a lock on a file outside (flock)", tries("import fcntl, os\nfcntl.flock(open(os.__file__), fcntl.LOCK_SH)"), TEST),
    ("a lock on a directory outside (flock)", tries("import fcntl, os\nfcntl.flock(os.open('/usr', os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)"), TEST),
    ("a lock on a file outside (F_SETLK)", tries("import fcntl, os\nfcntl.lockf(open(os.__file__), fcntl.LOCK_SH)"), TEST),
    ("a lock on a file outside (F_OFD_SETLK)", tries("import fcntl, os, struct\nfcntl.fcntl(open(os.__file__), 37, struct.pack('hhqqi', 0, 0, 0, 0, 0))"), TEST),
    ("who owns a file outside", tries("import os\nos.chown('{secret}', 0, 0)"), TEST),
    ("the mode of a directory it can read", tries("import os\nos.fchmod(os.open('/usr', os.O_RDONLY), 0o755)"), TEST),
    ("the mode of a file outside (fchmodat2)", tries(SYSCALL + "sys(452, -100, b'{secret}', 0o777, 0)"), TEST),
    ("the times of a file it can read", tries("import os\nos.utime(os.open('/usr', os.O_RDONLY))"), TEST),
    ("emptying by an open for reading", tries("import os\nopen('own', 'w').write('x')\nos.open('own', os.O_RDONLY | os.O_TRUNC)"), TEST),
    ("opening in mode 3", tries("import os\nopen('own', 'w').write('x')\nos.open('own', 3)"), TEST),
    ("linking a file it can read", tries("import os\nos.link(os.__file__, 'link')"), TEST),
    ("copying within the kernel (copy_file_range)", tries("import os\nopen('own', 'wb').write(b'x')\nr, w = os.open('own', os.O_RDONLY), os.open('{outside}/new', os.O_WRONLY | os.O_CREAT)\nos.copy_file_range(r, w, 1)"), TEST),
    ("a device", tries("import os, stat\nos.mknod('dev', 0o600 | stat.S_IFCHR, os.makedev(1, 1))"), TEST),
    ("a named pipe outside", tries("import os\nos.mkfifo('{outside}/pipe')"), TEST),
    ("its own memory by /proc", tries("open('/proc/self/mem', 'r+b')"), TEST),
    ("who is killed first (/proc/self/oom_score_adj)", tries("open('/proc/self/oom_score_adj', 'w').write('1000')"), TEST),
    ("another map of users", tries("open('/proc/self/uid_map', 'w').write('0 0 1')"), TEST),
    ("a setting of the kernel", tries("open('/proc/sys/kernel/hostname', 'w').write('x')"), TEST),
    # Watching and going around.
    ("inotify", tries(SYSCALL + "sys(294, 0)"), TEST),
    ("inotify on a directory outside", tries(SYSCALL + "sys(254, sys(253), b'{outside}', 0xfff)"), TEST),
    ("fanotify", tries(SYSCALL + "sys(300, 0x200, 0)"), TEST),
    ("asynchronous input (io_setup)", tries(SYSCALL + "sys(206, 8, ctypes.byref(ctypes.c_ulong(0)))"), TEST),
    ("a handle of a file (name_to_handle_at)", tries(SYSCALL + "b = ctypes.create_string_buffer(bytes([128, 0, 0, 0]), 256)\nsys(303, -100, b'/usr', b, ctypes.byref(ctypes.c_int(0)), 0)"), TEST),
    ("a file by its handle (open_by_handle_at)", tries(SYSCALL + "sys(304, -100, ctypes.create_string_buffer(256), 0)"), TEST),
    ("the mounts of the machine (statmount)", tries(SYSCALL + "import struct\nsys(457, struct.pack('IIQQ', 24, 0, 1, 2), ctypes.create_string_buffer(4096), 4096, 0)"), TEST),
    ("the mounts of the machine (listmount)", tries(SYSCALL + "import struct\nsys(458, struct.pack('IIQQ', 24, 0, 2**64 - 1, 0), (ctypes.c_ulong * 64)(), 64, 0)"), TEST),
    ("faults in memory (userfaultfd)", tries(SYSCALL + "sys(323, 1)"), TEST),
    ("performance counters", tries(SYSCALL + "sys(298, ctypes.create_string_buffer(128), 0, -1, -1, 0)"), TEST),
    ("a key of the user", tries(SYSCALL + "sys(248, b'user', b'unmask', b'x', 1, -4)"), TEST),
    ("another filter by seccomp", tries(SYSCALL + "sys(317, 2, 0, ctypes.byref(ctypes.c_uint(0x7fff0000)))"), TEST),
    ("a socket of the kernel (netlink)", tries("import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)"), TEST),
    ("a socket of the kernel (AF_ALG)", tries("import socket\nsocket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)"), TEST),
    ("a pair of sockets", tries("import socket\nsocket.socketpair()"), TEST),
    ("an abstract socket", tries("import socket\nsocket.socket(socket.AF_UNIX).connect('\\0{socket}')"), TEST),
    ("a timer with a signal (timer_create)", tries(SYSCALL + "sys(222, 0, 0, ctypes.byref(ctypes.c_int(0)))"), TEST),
    ("locking memory", tries(SYSCALL + "sys(151, 1)"), TEST),
    ("flushing every disk (sync)", tries(SYSCALL + "sys(162)"), TEST),
    ("flushing a disk outside (syncfs)", tries(SYSCALL + "import os\nsys(306, os.open('/usr', os.O_RDONLY))"), TEST),
    ("the log of the kernel", tries(SYSCALL + "sys(103, 10, 0, 0)"), TEST),
    ("the name of the machine", tries(SYSCALL + "sys(170, b'vm', 2)"), TEST),
    ("the clock", tries(SYSCALL + "sys(159, ctypes.create_string_buffer(208))"), TEST),
    ("splicing pipes", tries(SYSCALL + "import os\nr, w = os.pipe(); a, b = os.pipe(); os.write(w, b'x')\nsys(276, r, b, 1, 0)"), TEST),
    ("a larger pipe", tries("import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(w, 1031, 2**20)"), TEST),
    ("vfork", tries(SYSCALL + "if sys(58) == 0: sys(60, 0)"), TEST),
    ("a process that shares memory (clone)", tries(SYSCALL + "sys(56, 0x100 | 17, 0, 0, 0, 0)"), TEST),
    ("a thread with descriptors of its own", tries(SYSCALL + "s = ctypes.create_string_buffer(65536)\nif sys(56, 0x50900, ctypes.addressof(s) + 65536 - 512, 0, 0, 0) == 0: sys(60, 0)"), TEST),
    ("a new user namespace (clone)", tries(SYSCALL + "if sys(56, 0x10000000 | 17, 0, 0, 0, 0) == 0: sys(60, 0)"), TEST),
    # Disk.
    ("many empty files", tries("import os\nfor i in range(3000): open(str(i), 'w').close()"), TEST),
    ("many empty files, caught", "def f(x):\n    n = 0\n    for i in range(3000):\n        try: open(str(i), 'w').close(); n += 1\n        except OSError: pass\n    return 'got it' if n > 300 else n", TEST),
    ("many directories", "import os\ndef f(x):\n    n = 0\n    for i in range(3000):\n        try: os.mkdir(str(i)); n += 1\n        except OSError: pass\n    return 'got it' if n > 300 else n", TEST),
    ("many links", "import os\ndef f(x):\n    n = 0\n    for i in range(3000):\n        try: os.symlink('a' * 4000, str(i)); n += 1\n        except OSError: pass\n    return 'got it' if n > 300 else n", TEST),
    ("many hard links", "import os\nopen('a', 'w').close()\ndef f(x):\n    n = 0\n    for i in range(3000):\n        try: os.link('a', str(i)); n += 1\n        except OSError: pass\n    return 'got it' if n > 300 else n", TEST),
    ("directories 3,000 deep", tries("import os\nfor i in range(3000):\n    os.mkdir('d'); os.chdir('d')"), TEST),
    ("names too long for a walk", "import os\ndef f(x):\n    n = 0\n    for i in range(50):\n        try:\n            os.mkdir('d' * 255); os.chdir('d' * 255)\n            n += open('f', 'wb').write(bytes(2**20 - 1))\n        except OSError: pass\n    return 'got it' if n > 17 * 2**20 else n", TEST),
    ("files without a name", "import os\nkept = []\ndef f(x):\n    n = 0\n    for i in range(60):\n        try:\n            kept.append(open('f', 'wb', 0)); os.remove('f')\n            n += kept[-1].write(bytes(2**20 - 1))\n        except OSError: pass\n    return 'got it' if n > 17 * 2**20 else n", TEST),
    ("files without a name (O_TMPFILE)", "import os\ndef f(x):\n    n = 0\n    for i in range(60):\n        try: n += os.write(os.open('.', os.O_TMPFILE | os.O_RDWR), bytes(2**20 - 1))\n        except OSError: pass\n    return 'got it' if n > 17 * 2**20 else n", TEST),
    ("mapped files without a name", "import mmap, os\nkept = []\ndef f(x):\n    n = 0\n    for i in range(100):\n        try:\n            with open('f', 'w+b', 0) as file:\n                os.remove('f'); file.truncate(2**20); kept.append(mmap.mmap(file.fileno(), 2**20))\n            for p in range(0, 2**20, 4096): kept[-1].write(b'x'); kept[-1].seek(p)\n            n += 2**20\n        except OSError: pass\n    return 'got it' if n > 17 * 2**20 else n", TEST),
    ("files in many threads", "import os, threading\nn = []\ndef write(i):\n    try: n.append(open(str(i), 'wb', 0).write(bytes(2**20 - 1)))\n    except OSError: pass\ndef f(x):\n    for j in range(4):\n        ts = [threading.Thread(target=write, args=(20 * j + i,)) for i in range(20)]\n        for t in ts: t.start()\n        for t in ts: t.join()\n    return 'got it' if sum(n) > 17 * 2**20 else sum(n)", TEST),
    ("a file with a hole", tries("open('f', 'wb').truncate(2**40)"), TEST),
    ("room for a file (fallocate)", tries("import os\nf = open('f', 'wb')\nos.posix_fallocate(f.fileno(), 0, 2**30)"), TEST),
    ("a disk of its own unmounted", tries(SYSCALL + "sys(166, b'.', 2)"), TEST),
    # Time.
    ("an endless iterator", "import itertools\ndef f(x): return itertools.count()", "assert sum(f(1)) == 3"),
    ("an endless iterator of its own", "class E:\n    def __iter__(self): return self\n    def __next__(self): return 0\ndef f(x): return E()", "assert sum(f(1)) == 3"),
    ("a huge integer", "def f(x): return 10 ** 10 ** 7", "assert f(1) == 3"),
    ("huge integers in a list", "def f(x): return [1 << 10**6] * 200", "assert f(1) == 3"),
    # Forging a pass.
    ("exit with 0", "import sys\nsys.exit(0)", WRONG),
    ("exit with 0 past Python", "import os\nos._exit(0)", WRONG),
    ("exit in the call", "import os\ndef f(x): os._exit(0)", WRONG),
    ("SystemExit in the call", "def f(x): raise SystemExit(0)", WRONG),
    ("KeyboardInterrupt in the call", "def f(x): raise KeyboardInterrupt", WRONG),
    ("printing a pass", "print('passed'); print('1 passed in 0.01s')\nprint('{{\"failure\": \"\"}}')\ndef f(x): print('{{\"failure\": \"\"}}')", WRONG),
    ("writing the verdict to every descriptor", "import os\nfor fd in range(64):\n    try: os.write(fd, b'{{\"failure\": \"\"}}\\n')\n    except OSError: pass\nos._exit(0)", WRONG),
    ("always equal", "class E:\n    def __eq__(self, o): return True\n    def __ne__(self, o): return False\n    def __hash__(self): return 0\ndef f(x): return E()", WRONG),
    ("always equal, a string", "class E(str):\n    def __eq__(self, o): return True\n    def __hash__(self): return 0\ndef f(x): return E()", WRONG),
    ("always equal, by its class", "class M(type):\n    def __eq__(self, o): return True\n    def __hash__(self): return 0\n    def __instancecheck__(self, o): return True\nclass E(metaclass=M): pass\ndef f(x): return E", WRONG),
    ("answer of the right type by __class__", "class E:\n    __class__ = str\n    def __eq__(self, o): return True\ndef f(x): return E()", WRONG),
    ("overriding assert's error", "import builtins\nclass A(Exception):\n    def __init__(self, *a): pass\nbuiltins.AssertionError = A\ndef f(x): return 0", WRONG),
    ("patching the checker in memory", "import gc, sys\nfor o in gc.get_objects():\n    if isinstance(o, dict) and 'run_tests' in o: o['run_tests'] = lambda *a: ''\ndef f(x): return 0", WRONG),
    ("patching the checker's module", CHILD_FILES + "import sys\nfor m in list(sys.modules.values()):\n    if hasattr(m, 'run_tests'): m.run_tests = lambda *a: ''\n    if hasattr(m, 'Checker'): m.Checker.receive_names = lambda *a: {{}}\ndef f(x): return 0", WRONG),
    ("reading the tests from its stack", "import sys, gc\ndef f(x):\n    for o in gc.get_objects():\n        if isinstance(o, dict):\n            for v in list(o.values()):\n                if isinstance(v, str) and 'assert f(' in v and 'gc' not in v: return v.split(\"'\")[1]\n    return 0", WRONG),
    ("reading the tests from its input", "import os, glob\ndef f(x):\n    for fd in range(64):\n        try:\n            t = os.pread(fd, 9999, 0).decode()\n            if 'assert f(' in t: return t.split(\"'\")[1]\n        except Exception: pass\n    return 0", WRONG),
    ("reading the tests from the checker's directory", "import glob\ndef f(x):\n    for p in glob.glob('../**', recursive=True) + glob.glob('/tmp/unmask*/**', recursive=True):\n        try:\n            t = open(p).read()\n            if 'assert f(' in t: return t.split(\"'\")[1]\n        except OSError: pass\n    return 0", WRONG),
    ("breaking the protocol", "import os\nclass E: pass\ndef f(x):\n    for fd in range(3, 9):\n        try: os.write(fd, b'[\"return\", \"\", [], [\"object\", 99999]]\\n' * 5)\n        except OSError: pass\n    return 0", WRONG),
    ("an unhashable, endless or odd answer", "def f(x):\n    while True: yield 'e07b1c'", WRONG),
    ("breaking out by a callback", "def f(x):\n    return x.__globals__['__builtins__']['exec']('1')", "assert f(lambda: 0) == 'e07b1c'"),
    ("a callback's checker", "def f(x):\n    x.__self__.failure = ''\n    return 0", "assert f([].append) == 'e07b1c'"),
    ("shadowing what the tests use", "def isinstance(*a): return True\ndef abs(x): return 0\nclass math:\n    isclose = staticmethod(lambda *a, **k: True)\ndef f(x): return 9.0", "import math\nassert isinstance(f(1), str) or math.isclose(f(1), 3.25) or abs(f(1) - 3.25) < 1e-9"),
    ("shadowing a name the tests forgot", "class math:\n    isclose = staticmethod(lambda *a, **k: True)\ndef f(x): return 9.0", "assert math.isclose(f(1), 3.25)"),
    ("eval in the checker", "def g(x): return x\ndef f(x): return eval", "assert f(0)(f(1)('__import__(\"os\")').name) == 'e07b1c'"),
    ("a function of Python's by its name", "import sys\nclass E: pass\nsys.modules['program'].Program.pack_object = lambda self, v: ['named', 'builtins', 'eval']\ndef f(x): return E()", "assert f(0)('1 + 1') != 2 and False\nassert f(0)('3') == 3"),
    ("raising what the tests raise", "def f(x): raise AssertionError('all fine')", WRONG),
    ("changing the tests' list", "def f(x):\n    x.clear()\n    return 0", "want = [1, 2]\nassert f(want) == want"),
]  # fmt: skip

PYTEST_WRONG = "import pytest\nfrom solution import *\n\ndef test_f():\n    assert f(20) == 'e07b1c'\n\ndef test_g():\n    with pytest.raises(ValueError):\n        f(-1)\n"
PYTEST_ATTACKS: list[tuple[str, str]] = [
    ("pytest: exit with 0", "import os\ndef f(x): os._exit(0)"),
    ("pytest: shadowing pytest", "class pytest:\n    def raises(*a): return open('/dev/null')\ndef f(x): return 'e07b1c'"),
    ("pytest: skipping", "import unittest\ndef f(x): raise unittest.SkipTest('no')"),
    ("pytest: pytest's own exceptions", "import pytest\ndef f(x): pytest.skip('no', allow_module_level=True)"),
    ("pytest: pytest.exit", "import pytest\ndef f(x): pytest.exit('done', 0)"),
    ("pytest: a conftest.py", "open('conftest.py', 'w').write('def pytest_runtest_makereport(): pass')\ntry: open('../checker/conftest.py', 'w').write('x')\nexcept OSError: pass\ndef f(x): return 0"),
    ("pytest: always equal", "class E:\n    def __eq__(self, o): return True\ndef f(x): return E()"),
    ("pytest: no tests left", "test_f = test_g = None\ndef f(x): return 0"),
    ("pytest: very many errors", "def f(x): raise ValueError('\\ud800\"\\\\' * 30000)"),
    ("pytest: very many kinds of errors", "def f(x): raise type('E' * 9999, (Exception,), {{}})('\\n' * 9999)"),
    ("pytest: patching pytest", "import _pytest.runner\n_pytest.runner.call_and_report = lambda *a, **k: None\ndef f(x): return 0"),
]  # fmt: skip


def fill_places(program: str, places: dict) -> str:
    """A program of the tables with its places filled in."""
    for name, value in places.items():
        program = program.replace(f"{{{name}}}", str(value))
    return program.replace("{{", "{").replace("}}", "}")


def list_attacks(places: dict) -> dict[str, Job]:
    """The job of every attack that needs a machine to go wrong, by its name."""
    found = {n: Job(fill_places(p, places), test, names=("f",)) for n, p, test in ATTACKS}
    for name, program in PYTEST_ATTACKS:
        found[name] = Job(fill_places(program, places), PYTEST_WRONG, kind="pytest", names=("f",))
    return found


# Those that end by a limit on time or memory of their own process, which no user and no kernel makes
# different: most of the time that the table takes is theirs.
ENDLESS = (
    "memory bomb",
    "memory bomb by growing",
    "memory bomb in the answer",
    "exponential number",
    "deep recursion in the answer",
    "endless loop",
    "endless loop in the call",
    "sleep",
    "sleep that ignores signals",
    "endless output",
    "endless output past Python",
    "flood of the pipes",
    "an endless iterator",
    "an endless iterator of its own",
    "a huge integer",
    "huge integers in a list",
    "an unhashable, endless or odd answer",
)


def list_lies() -> dict[str, Job]:
    """The job of every false pass, by its name: no user and no kernel makes a difference."""
    found = {n: Job(p, test, names=defined_names(p)) for n, p, test in list_false_passes()}
    for name, test in PYTEST_FALSE_PASSES:
        found[f"own object: {name}"] = Job(YES, HEADER + test, kind="pytest", names=("f",))
    return found


NAMES = [*(name for name, *_ in (*ATTACKS, *PYTEST_ATTACKS)), *list_lies()]
