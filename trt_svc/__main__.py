from trt_svc.cli.main import main

main()
