# Reads "pid N", "gone N" and "dir PATH" lines. When the pipe ends without "done", whoever held it died:
# end what it started (politely first, so that opened volumes are sealed) and remove what it made.
pids=' '; dirs=''
while read -r word value; do
  case $word in
    pid) pids="$pids$value " ;;
    gone) pids=$(printf '%s' "$pids" | sed "s/ $value / /") ;;
    dir) dirs="$dirs$value
" ;;
    done) exit 0 ;;
  esac
done
tree() { # the process and all below it
  for t in /proc/"$1"/task/*/children; do [ -r "$t" ] && for c in $(cat "$t"); do tree "$c"; done; done
  echo "$1"
}
all=$(for p in $pids; do tree "$p"; done)
for p in $pids; do kill -TERM "$p" 2>/dev/null; done
for i in 1 2 3 4 5 6 7 8 9 10; do
  left=''; for p in $pids; do [ -d /proc/"$p" ] && left=1; done
  [ -n "$left" ] || break
  sleep 0.3
done
for p in $pids; do for q in $(tree "$p"); do kill -KILL "$q" 2>/dev/null; done; done
for p in $all; do # what lost its parent meanwhile; never another's process that took the number
  case $(cat /proc/"$p"/comm 2>/dev/null) in postgres|legation|pg_ctl) kill -KILL "$p" 2>/dev/null ;; esac
done
sleep 0.2
printf '%s' "$dirs" | while read -r d; do # a killed server's memory segment stays until somebody removes it
  find "$d" -name postmaster.pid -exec sed -n '7s/.* //p' {} ';' 2>/dev/null | while read -r m; do ipcrm -m "$m"; done
done
printf '%s' "$dirs" | while read -r d; do
  case $d in */legation-*) ;; *) continue ;; esac
  awk -v d="$d/" 'index($2, d) == 1 { print $2 }' /proc/mounts | sort -r | while read -r m; do umount -l "$m"; done
  rm -rf -- "$d"
done
